-- The ledger of one target: domain/ledger.py, ring.py and ceiling.py, step by step; the first prelude of every script.
--
-- KEYS[1]  hash, the windows' sums and the queue's counters (schema.Field)
-- KEYS[2]  string, the buckets of all windows, ring after ring, eight bytes each
-- ARGV[1]  microseconds in place of Redis' clock in a test, or ''
-- ARGV[2]  configuration, little-endian doubles (schema.QueueConfig, LevelConfig, WindowConfig)
--
-- Names in capitals with an underscore are constants of schema.py. Moments are whole microseconds of Redis' clock.

local prefix = string.sub(KEYS[1], 1, -1 - #KEY_LEDGER)
local config = {struct.unpack('<' .. string.rep('d', #ARGV[2] / 8), ARGV[2])}
local now
if ARGV[1] ~= '' then
  now = tonumber(ARGV[1])
else
  local time = redis.call('TIME')
  now = tonumber(time[1]) * SECOND_US + tonumber(time[2])
end

-- latest: the latest moment seen. Only a clock that was set back by more than SET_BACK_US moves it back.
local windows, latest, gate, gate_window = {}, 0, 0, ''

-- Whether the state is another than the one that the caller has joined.
local function is_other_epoch(epoch)
  return redis.call('HGET', KEYS[1], FIELD_EPOCH) ~= epoch
end

local function epoch_mismatch()
  return {err = EPOCH_MISMATCH .. ' this is another state than the one that you have joined'}
end

local function whole(number)
  return string.format('%.0f', number + 0) -- + 0: there is a -0, which is no integer to Redis
end

local function zeros(buckets)
  return string.rep('\0', buckets * 8)
end

-- Sum and clear the buckets from..to, places in the ring that do not wrap.
local function clear_buckets(w, from, to)
  local at = w.offset + from * 8
  local slice = redis.call('GETRANGE', KEYS[2], at, w.offset + to * 8 + 7)
  local empty = zeros(to - from + 1)
  if slice == '' or slice == empty then return 0 end
  slice = slice .. string.sub(empty, #slice + 1)
  local sum = 0
  for place = 0, to - from do
    sum = sum + struct.unpack('<d', slice, place * 8 + 1)
  end
  redis.call('SETRANGE', KEYS[2], at, empty)
  return sum
end

-- Pay the pace debt since `paced_at`, and drop what has left the window.
local function advance(w, paced_at)
  if now > paced_at then w.pace_debt = math.max(0, w.pace_debt - (now - paced_at) * w.pace) end
  if w.day > 0 then
    -- The caller's calendar may be a moment behind Redis' clock.
    if now >= w.day_ends then w.day, w.day_ends = w.day + 1, w.day_ends + DAY_US end
    if w.day > w.newest then w.newest, w.charged = w.day, 0 end
    return
  end
  local index = math.floor(now / w.width)
  local steps = index - w.newest
  if steps <= 0 then return end
  if steps >= RING_SIZE then
    if w.charged ~= 0 then redis.call('SETRANGE', KEYS[2], w.offset, zeros(RING_SIZE)) end
    w.charged = 0
  else
    local from, to = (w.newest + 1) % RING_SIZE, index % RING_SIZE
    if from <= to then
      w.charged = w.charged - clear_buckets(w, from, to)
    else
      w.charged = w.charged - clear_buckets(w, from, RING_SIZE - 1) - clear_buckets(w, 0, to)
    end
  end
  w.newest = index
end

local function is_climbing(w)
  return w.step > 1 or w.cut_at == 0
end

local function set_pace(w)
  w.pace = w.limit / w.span
  if w.learn and is_climbing(w) then w.pace = w.pace * CLIMB_FACTOR end
end

local function load_ceiling(n, w)
  local packed = redis.call('HGET', KEYS[1], FIELD_CEILING .. n)
  if packed then
    w.limit, w.step, w.probe_at, w.cut_at = struct.unpack('<dddd', packed)
  else
    w.step, w.probe_at, w.cut_at = 1, 0, 0
  end
end

local function save_ceiling(n, w, limit)
  w.limit = limit
  set_pace(w)
  redis.call('HSET', KEYS[1], FIELD_CEILING .. n, struct.pack('<dddd', w.limit, w.step, w.probe_at, w.cut_at))
end

-- Take over a limit that was learnt before this state began.
local function adopt_ceiling(n, w, limit)
  if limit ~= w.limit then
    w.step, w.cut_at, w.probe_at = 1, now, now + PROBE_US
    save_ceiling(n, w, math.max(1, limit))
  end
end

local save_windows, set_back_queue

-- Charges have moved to another bucket, so the buckets of live reservations move along, unless they had left the
-- window. moved: for each window its newest bucket before and after.
local function move_live(moved)
  for _, replica in ipairs(redis.call('ZRANGE', prefix .. KEY_REPLICAS, 0, -1)) do
    local key = prefix .. KEY_LIVE .. replica
    local stored = redis.call('HGETALL', key)
    for i = 1, #stored, 2 do
      local record = cmsgpack.unpack(stored[i + 1])
      local buckets = record[LIVE_BUCKETS]
      for n, w in ipairs(windows) do
        local size = w.day > 0 and 1 or RING_SIZE
        local before, after = moved[n][1], moved[n][2]
        buckets[n] = before - buckets[n] < size and after or after - size
      end
      redis.call('HSET', key, stored[i], cmsgpack.pack(record))
    end
  end
end

-- The clock was set back: all charges count as charged now, and every stored moment moves along.
local function set_back(by)
  local moved = {}
  set_back_queue(by)
  gate = gate - by
  redis.call('HSET', KEYS[1], FIELD_GATE, whole(gate))
  for n, w in ipairs(windows) do
    local before = w.newest
    if w.day > 0 then
      w.newest = math.min(w.newest, w.day)
    else
      w.newest = math.floor(now / w.width)
      redis.call('SETRANGE', KEYS[2], w.offset, zeros(RING_SIZE))
      redis.call('SETRANGE', KEYS[2], w.offset + (w.newest % RING_SIZE) * 8, struct.pack('<d', w.charged))
    end
    if w.learn then
      w.probe_at = w.probe_at - by
      if w.cut_at > 0 then w.cut_at = math.max(1, w.cut_at - by) end
      save_ceiling(n, w, w.limit)
    end
    moved[n] = {before, w.newest}
  end
  move_live(moved)
  latest = now
  save_windows()
end

-- Read every window and bring it to the moment.
local function load_windows()
  local fields = {}
  for n = 1, config[CONFIG_WINDOWS] do
    local at = (n - 1) * WINDOW_SIZE
    local w = {
      limit = config[at + WINDOW_LIMIT], width = config[at + WINDOW_WIDTH_US], span = config[at + WINDOW_SPAN_US],
      requests = config[at + WINDOW_COUNTS_REQUESTS], input = config[at + WINDOW_COUNTS_INPUT],
      output = config[at + WINDOW_COUNTS_OUTPUT], day = config[at + WINDOW_DAY],
      day_ends = config[at + WINDOW_DAY_ENDS_US], paced = config[at + WINDOW_PACED] == 1,
      learn = config[at + WINDOW_LEARN] == 1, offset = (n - 1) * RING_SIZE * 8,
      pace = 0, charged = 0, held = 0, newest = 0, pace_debt = 0,
    }
    if w.learn then load_ceiling(n, w) end
    set_pace(w)
    windows[n] = w
    fields[#fields + 1] = FIELD_CHARGED .. n
    fields[#fields + 1] = FIELD_HELD .. n
    fields[#fields + 1] = FIELD_NEWEST .. n
    fields[#fields + 1] = FIELD_PACE_DEBT .. n
  end
  fields[#fields + 1] = FIELD_LATEST
  fields[#fields + 1] = FIELD_GATE
  fields[#fields + 1] = FIELD_GATE_WINDOW
  local stored = redis.call('HMGET', KEYS[1], unpack(fields))
  latest = tonumber(stored[#fields - 2]) or 0
  gate, gate_window = tonumber(stored[#fields - 1]) or 0, stored[#fields] or ''
  for n, w in ipairs(windows) do
    w.charged = tonumber(stored[4 * n - 3]) or 0
    w.held = tonumber(stored[4 * n - 2]) or 0
    w.newest = tonumber(stored[4 * n - 1]) or 0
    w.pace_debt = tonumber(stored[4 * n]) or 0
  end
  if latest - now > SET_BACK_US then set_back(latest - now) end
  for _, w in ipairs(windows) do advance(w, latest) end
  latest = math.max(now, latest)
end

function save_windows()
  if #windows == 0 then return end
  local values = {FIELD_LATEST, whole(latest)}
  for n, w in ipairs(windows) do
    values[#values + 1] = FIELD_CHARGED .. n
    values[#values + 1] = whole(w.charged)
    values[#values + 1] = FIELD_HELD .. n
    values[#values + 1] = whole(w.held)
    values[#values + 1] = FIELD_NEWEST .. n
    values[#values + 1] = whole(w.newest)
    values[#values + 1] = FIELD_PACE_DEBT .. n
    values[#values + 1] = w.pace_debt == 0 and '0' or string.format('%.17g', w.pace_debt)
  end
  redis.call('HSET', KEYS[1], unpack(values))
end

-- Charge `amount`, which may be negative, into `bucket`; one that has left the window is no more.
local function add(w, bucket, amount)
  if amount == 0 then return end
  if w.day > 0 then
    if bucket >= w.newest then w.charged = w.charged + amount end -- later: the clock was set back since
    return
  end
  if w.newest - bucket >= RING_SIZE then return end
  if bucket > w.newest then bucket = w.newest end
  local at = w.offset + (bucket % RING_SIZE) * 8
  local stored = redis.call('GETRANGE', KEYS[2], at, at + 7)
  local before = #stored == 8 and struct.unpack('<d', stored) or 0
  redis.call('SETRANGE', KEYS[2], at, struct.pack('<d', before + amount))
  w.charged = w.charged + amount
end

-- The bucket of output whose count has just arrived: the provider has counted it by now, so it needs no guard.
local function completion_bucket(w)
  return w.day > 0 and w.newest or w.newest - math.floor(GUARD_US / w.width)
end

local function adjust_pace_debt(w, amount)
  w.pace_debt = math.max(0, w.pace_debt + amount)
end

-- Microseconds until `amount` more fits, if nothing else is granted and every hold comes true.
local function wait_for_capacity(w, amount)
  local excess = w.charged + w.held + amount - w.limit
  if excess <= 0 then return 0 end
  if w.day > 0 then return w.day_ends - now + math.floor((excess - 1) / w.limit) * w.span end
  local ring = redis.call('GETRANGE', KEYS[2], w.offset, w.offset + RING_SIZE * 8 - 1)
  ring = ring .. string.sub(zeros(RING_SIZE), #ring + 1)
  for age = RING_SIZE - 1, 0, -1 do
    local bucket = w.newest - age
    excess = excess - struct.unpack('<d', ring, (bucket % RING_SIZE) * 8 + 1)
    if excess <= 0 then return math.max(1, (bucket + RING_SIZE) * w.width - now) end
  end
  return (RING_SIZE - 1) * w.width + math.floor(excess / w.pace)
end

-- Microseconds until `amount`, after `ahead` more, keeps to an even pace. While the clock is behind the latest moment,
-- no debt is paid.
local function wait_for_pace(w, amount, burst, ahead)
  local least = 0
  if w.learn then
    if is_climbing(w) then burst, least = 0, 1 else burst, least = math.min(burst, LEARNT_BURST), 2 end
  end
  local debt = w.pace_debt + ahead
  if burst >= 1 or not w.paced or debt <= 0 then return 0 end
  local excess = debt + amount - math.max(burst * w.limit, least)
  if excess <= 0 then return 0 end
  return latest - now + math.floor(math.min(excess, debt) / w.pace) + 1
end

-- What of a window must be free for `amount`: a level with a ceiling leaves the rest to higher priorities.
local function required_capacity(w, amount, level)
  local reserved = w.limit - math.floor(w.limit * config[LEVEL_SIZE * level + LEVEL_CEILING])
  return math.max(amount, math.min(w.limit, amount + reserved))
end

-- Microseconds until a request fits after its backlog, and what it waits for: the number of a window from 1, 0 for
-- none, or the name that the gate was closed with.
-- backlog: {how many, their input, their output, the part of everything held that is released by then}
local function wait_for(input, output, level, backlog)
  if now < gate then return gate - now, gate_window == GATE_OF_JOIN and '' or gate_window end
  local longest, waits_for = 0, 0
  local burst = config[LEVEL_SIZE * level + LEVEL_BURST]
  for n, w in ipairs(windows) do
    local amount = w.requests + w.input * input + w.output * output
    local ahead = w.requests * backlog[1] + w.input * backlog[2] + w.output * backlog[3]
      - math.floor(w.held * backlog[4])
    local wait = math.max(
      wait_for_capacity(w, required_capacity(w, amount, level) + ahead), wait_for_pace(w, amount, burst, ahead)
    )
    if wait > longest then longest, waits_for = wait, n end
  end
  return longest, waits_for
end

local function output_totals()
  local packed = redis.call('HGET', KEYS[1], FIELD_OUTPUT_RATIO)
  if not packed then return 0, 0 end
  return struct.unpack('<dd', packed)
end

-- Actual output of recent answers as a part of what was held for them, at most 1.
local function output_ratio()
  local predicted, actual = output_totals()
  return predicted == 0 and 1 or math.min(1, actual / predicted)
end

local function record_output(held, output)
  local predicted, actual = output_totals()
  predicted, actual = predicted * OUTPUT_DECAY + held, actual * OUTPUT_DECAY + output
  redis.call('HSET', KEYS[1], FIELD_OUTPUT_RATIO, struct.pack('<dd', predicted, actual))
end

-- A request does not fit: raise each learnt ceiling whose probe is due; whether one was raised.
local function probe_ceilings(input, output, level)
  local raised = false
  if now < gate then return raised end
  for n, w in ipairs(windows) do
    if w.learn and now >= w.probe_at and w.limit < LARGEST_LIMIT then
      local amount = w.requests + w.input * input + w.output * output
      if w.charged + w.held + required_capacity(w, amount, level) > w.limit then
        local step = math.max(1, w.step)
        w.probe_at = now + (w.step > 1 and STEP_US or VERIFY_US)
        w.step = 2 * step
        save_ceiling(n, w, w.limit + step)
        raised = true
      end
    end
  end
  return raised
end

-- Microseconds until one request fits, after a probe of the ceilings that may help it.
local function wait_after_probe(input, output, level)
  local no_backlog = {0, 0, 0, 0}
  local wait = wait_for(input, output, level, no_backlog)
  if wait > 0 and probe_ceilings(input, output, level) then wait = wait_for(input, output, level, no_backlog) end
  return wait
end

-- The provider rejected a request that was granted in these buckets and has been released: lower the ceilings.
local function lower_ceilings(buckets)
  for n, w in ipairs(windows) do
    if w.learn then
      local limit = math.min(w.limit, w.charged + w.held)
      if w.step > 1 then
        limit = math.max(limit, w.limit - w.step / 2)
        w.step, w.cut_at = 1, now
      elseif buckets[n] * w.width >= w.cut_at then
        if w.step == 0 and now - w.cut_at < REPEAT_US then limit = math.floor(limit * CUT_FACTOR) end
        w.step, w.cut_at = 0, now
      end
      w.probe_at = now + PROBE_US
      save_ceiling(n, w, math.max(1, limit))
    end
  end
end

-- Charge every window, whatever is in it; the buckets of the charge.
local function charge(input, output)
  local buckets = {}
  for n, w in ipairs(windows) do
    local charged, held = w.requests + w.input * input, w.output * output
    add(w, w.newest, charged)
    w.held = w.held + held
    w.pace_debt = w.pace_debt + charged + held
    buckets[n] = w.newest
  end
  return buckets
end

-- Grant nothing for a while. A gate only moves later.
local function close_gate(us, window)
  local ends = now + us
  if ends > (tonumber(redis.call('HGET', KEYS[1], FIELD_GATE)) or 0) then
    redis.call('HSET', KEYS[1], FIELD_GATE, whole(ends), FIELD_GATE_WINDOW, window)
  end
end

-- What is left of a gate that the provider closed, in microseconds, and the window that it named.
local function provider_gate()
  if now >= gate or gate_window == GATE_OF_JOIN then return 0, '' end
  return gate - now, gate_window
end

-- A reservation is live until its replica ends it or dies. The record is a schema.LiveRecord.
local function save_live(replica, id, input, output, buckets, level, weight, tenant)
  local record = cmsgpack.pack({input, output, buckets, level, weight, tenant})
  redis.call('HSET', prefix .. KEY_LIVE .. replica, id, record)
end
