-- The ledger of one target, as domain/quota.py has it; the first prelude of every quota script.
--
-- State, all under one hash tag, constant in size:
--   KEYS[1]  P .. quota  hash    ep epoch: names this state, gone when Redis has lost it; per window i: t<i> charged, h<i> held, l<i> newest bucket, p<i> ahead of the pace;
--                                c<i> what is learnt of its limit, packed: limit, next step, moments of probe and cut;
--                                oq output tokens of the answers of late, as predicted and as they were, packed;
--                                xs xr xl reservations settled, released, refused by the provider, xd asked in vain,
--                                xi xo input and output tokens by which the truth was more than the estimate;
--                                lt moment of the paces; g gate, gw its window, or JOINING; and the room's counters
--   KEYS[2]  P .. rings  string  the rings of all windows, one after the other, eight bytes a bucket
--   P .. live:<replica>  hash    reservation id -> what ends it if its replica dies
-- ARGV[1] is a test's own moment, or ''; ARGV[2] the configuration, doubles packed little-endian:
--   capacity, aging us, share and burst of each level 0..3, number of windows, and per window
--   limit, bucket width us, counts requests, counts input, counts output, day (0: rolling), day's end us, span us,
--   paced, learnt
-- Moments are whole microseconds of Redis' own clock.

local P = string.sub(KEYS[1], 1, -6)
local SIZE = 601
-- domain/learning.py
local PROBE, VERIFY, STEP, REPEAT, CUT, CLIMB, MOST = 55000000, 3000000, 1000000, 20000000, 0.9, 6, 1000000
local LEARNT_BURST, OUTCOME_KEPT, SET_BACK, GUARD = 1 / 30, 0.98, 300000000, 300000 -- domain/quota.py
local cfg = {struct.unpack('<' .. string.rep('d', #ARGV[2] / 8), ARGV[2])}
local now
if ARGV[1] ~= '' then
  now = tonumber(ARGV[1])
else
  local t = redis.call('TIME')
  now = tonumber(t[1]) * 1000000 + tonumber(t[2])
end

local windows, gate, gate_window = {}, 0, ''
local JOINING = '-' -- in the place of a window: a gate that a join has closed, and no provider
local NOBODY = {0, 0, 0, 0}

-- Whether this is another state than the one that the caller has joined: it must join again before it may spend.
local function forgotten(epoch)
  return redis.call('HGET', KEYS[1], 'ep') ~= epoch
end

local FORGOTTEN = {err = 'FORGOTTEN this is another state than the one that you have joined'}

local function whole(number)
  return string.format('%.0f', number + 0) -- + 0: there is a -0, which is no integer to Redis
end

local function zeros(buckets)
  return string.rep('\0', buckets * 8)
end

-- Sum and clear the buckets from..to, places in the ring that do not wrap.
local function drain(w, from, to)
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

local function advance(w, lined)
  if now > lined then w.line = math.max(0, w.line - (now - lined) * w.rate) end
  if w.day > 0 then
    -- The caller's calendar may be a moment behind Redis' clock.
    if now >= w.ends then w.day, w.ends = w.day + 1, w.ends + 86400000000 end
    if w.day > w.last then w.last, w.total = w.day, 0 end
    return
  end
  local index = math.floor(now / w.width)
  local gone = index - w.last
  if gone <= 0 then return end
  if gone >= SIZE then
    if w.total ~= 0 then redis.call('SETRANGE', KEYS[2], w.offset, zeros(SIZE)) end
    w.total = 0
  else
    local from, to = (w.last + 1) % SIZE, index % SIZE
    if from <= to then
      w.total = w.total - drain(w, from, to)
    else
      w.total = w.total - drain(w, from, SIZE - 1) - drain(w, 0, to)
    end
  end
  w.last = index
end

local function climbing(w)
  return w.step > 1 or w.cut == 0
end

local function pace(w)
  w.rate = w.limit / w.span
  if w.learn and climbing(w) then w.rate = w.rate * CLIMB end
end

local function recall(n, w)
  local kept = redis.call('HGET', KEYS[1], 'c' .. n)
  if kept then
    w.limit, w.step, w.probe, w.cut = struct.unpack('<dddd', kept)
  else
    w.step, w.probe, w.cut = 1, 0, 0
  end
end

local function learn(n, w, limit)
  w.limit = limit
  pace(w)
  redis.call('HSET', KEYS[1], 'c' .. n, struct.pack('<dddd', w.limit, w.step, w.probe, w.cut))
end

-- What others had learnt before this state began.
local function learnt(n, w, limit)
  if limit ~= w.limit then
    w.step, w.cut, w.probe = 1, now, now + PROBE
    learn(n, w, math.max(1, limit))
  end
end

local close

-- The clock was set back: all that is charged counts as charged now, and what was remembered by the clock moves along.
local function set_back(by)
  gate = gate - by
  redis.call('HSET', KEYS[1], 'g', whole(gate))
  for n, w in ipairs(windows) do
    if w.day > 0 then
      w.last = math.min(w.last, w.day)
    else
      w.last = math.floor(now / w.width)
      redis.call('SETRANGE', KEYS[2], w.offset, zeros(SIZE))
      redis.call('SETRANGE', KEYS[2], w.offset + (w.last % SIZE) * 8, struct.pack('<d', w.total))
    end
    if w.learn then
      w.probe = w.probe - by
      if w.cut > 0 then w.cut = math.max(1, w.cut - by) end
      learn(n, w, w.limit)
    end
  end
  windows.lined = now
  close()
end

-- Read every window and bring it to the moment.
local function open()
  local fields = {}
  for n = 1, cfg[11] do
    local at = 12 + (n - 1) * 10
    local w = {
      limit = cfg[at], width = cfg[at + 1], req = cfg[at + 2], inp = cfg[at + 3], out = cfg[at + 4],
      day = cfg[at + 5], ends = cfg[at + 6], span = cfg[at + 7], paced = cfg[at + 8],
      learn = cfg[at + 9] == 1,
      offset = (n - 1) * SIZE * 8,
    }
    if w.learn then recall(n, w) end
    pace(w)
    windows[n] = w
    fields[#fields + 1] = 't' .. n
    fields[#fields + 1] = 'h' .. n
    fields[#fields + 1] = 'l' .. n
    fields[#fields + 1] = 'p' .. n
  end
  fields[#fields + 1] = 'lt'
  fields[#fields + 1] = 'g'
  fields[#fields + 1] = 'gw'
  local got = redis.call('HMGET', KEYS[1], unpack(fields))
  local lined = tonumber(got[#fields - 2]) or 0
  gate, gate_window = tonumber(got[#fields - 1]) or 0, got[#fields] or ''
  for n, w in ipairs(windows) do
    w.total = tonumber(got[4 * n - 3]) or 0
    w.held = tonumber(got[4 * n - 2]) or 0
    w.last = tonumber(got[4 * n - 1]) or 0
    w.line = tonumber(got[4 * n]) or 0
  end
  if lined - now > SET_BACK then
    set_back(lined - now)
    lined = now
  end
  for _, w in ipairs(windows) do advance(w, lined) end
  windows.lined = math.max(now, lined)
end

function close()
  if #windows == 0 then return end
  local values = {'lt', whole(windows.lined)}
  for n, w in ipairs(windows) do
    values[#values + 1] = 't' .. n
    values[#values + 1] = whole(w.total)
    values[#values + 1] = 'h' .. n
    values[#values + 1] = whole(w.held)
    values[#values + 1] = 'l' .. n
    values[#values + 1] = whole(w.last)
    values[#values + 1] = 'p' .. n
    values[#values + 1] = w.line == 0 and '0' or string.format('%.17g', w.line)
  end
  redis.call('HSET', KEYS[1], unpack(values))
end

local function add(w, bucket, amount)
  if amount == 0 then return end
  if w.day > 0 then
    if bucket >= w.last then w.total = w.total + amount end -- later: the clock was set back since
    return
  end
  if w.last - bucket >= SIZE then return end
  if bucket > w.last then bucket = w.last end
  local at = w.offset + (bucket % SIZE) * 8
  local was = redis.call('GETRANGE', KEYS[2], at, at + 7)
  local old = #was == 8 and struct.unpack('<d', was) or 0
  redis.call('SETRANGE', KEYS[2], at, struct.pack('<d', old + amount))
  w.total = w.total + amount
end

-- The bucket of output that an answer has just told of: the provider has counted it by now, so it needs no guard.
local function unguarded(w)
  return w.day > 0 and w.last or w.last - math.floor(GUARD / w.width)
end

local function repace(w, amount)
  w.line = math.max(0, w.line + amount)
end

-- Microseconds until `amount` more fits, if nothing else is granted and every hold comes true.
local function room_in(w, amount)
  local short = w.total + w.held + amount - w.limit
  if short <= 0 then return 0 end
  if w.day > 0 then return w.ends - now + math.floor((short - 1) / w.limit) * w.span end
  local ring = redis.call('GETRANGE', KEYS[2], w.offset, w.offset + SIZE * 8 - 1)
  ring = ring .. string.sub(zeros(SIZE), #ring + 1)
  for age = SIZE - 1, 0, -1 do
    local bucket = w.last - age
    short = short - struct.unpack('<d', ring, (bucket % SIZE) * 8 + 1)
    if short <= 0 then return math.max(1, (bucket + SIZE) * w.width - now) end
  end
  return (SIZE - 1) * w.width + math.floor(short / w.rate)
end

-- The same for an even pace: until `amount` fits after `first` more.
local function pace_in(w, amount, burst, first)
  local least = 0
  if w.learn then
    if climbing(w) then burst, least = 0, 1 else burst, least = math.min(burst, LEARNT_BURST), 2 end
  end
  local line = w.line + first
  if burst >= 1 or w.paced == 0 or line <= 0 then return 0 end
  local ahead = line + amount - math.max(burst * w.limit, least)
  if ahead <= 0 then return 0 end
  return math.floor(math.min(ahead, line) / w.rate) + 1
end

-- What of a window must be free for `amount`: a level that is held to a share leaves the rest.
local function wanted(w, amount, level)
  return math.max(amount, math.min(w.limit, amount + w.limit - math.floor(w.limit * cfg[3 + 2 * level])))
end

-- Microseconds until a request fits after those before it, and what it waits for: the index of a window, or the name
-- that the gate was closed with. `before`: {how many, input, output, the part of all that is held now that will have
-- been given back by then}
local function wait_for(input, output, level, before)
  if now < gate then return gate - now, gate_window == JOINING and '' or gate_window end
  local wait, worst = 0, 0
  for n, w in ipairs(windows) do
    local amount = w.req + w.inp * input + w.out * output
    local first = w.req * before[1] + w.inp * before[2] + w.out * before[3] - math.floor(w.held * before[4])
    local room = math.max(
      room_in(w, wanted(w, amount, level) + first), pace_in(w, amount, cfg[4 + 2 * level], first)
    )
    if room > wait then wait, worst = room, n end
  end
  return wait, worst
end

local function answers()
  local kept = redis.call('HGET', KEYS[1], 'oq')
  if not kept then return 0, 0 end
  return struct.unpack('<dd', kept)
end

-- What the answers of late took of the output that was held for them, at most 1.
local function outcome()
  local predicted, produced = answers()
  return predicted == 0 and 1 or math.min(1, produced / predicted)
end

local function answered(held, output)
  local predicted, produced = answers()
  predicted, produced = predicted * OUTCOME_KEPT + held, produced * OUTCOME_KEPT + output
  redis.call('HSET', KEYS[1], 'oq', struct.pack('<dd', predicted, produced))
end

-- A request does not fit: whether a learnt ceiling gives way.
local function pressed(input, output, level)
  local gave = false
  if now < gate then return gave end
  for n, w in ipairs(windows) do
    if w.learn and now >= w.probe and w.limit < MOST then
      local amount = w.req + w.inp * input + w.out * output
      if w.total + w.held + wanted(w, amount, level) > w.limit then
        local step = math.max(1, w.step)
        w.probe = now + (w.step > 1 and STEP or VERIFY)
        w.step = 2 * step
        learn(n, w, w.limit + step)
        gave = true
      end
    end
  end
  return gave
end

-- The microseconds until one request fits, after a learnt ceiling has given way if it would.
local function turn(input, output, level)
  local wait, worst = wait_for(input, output, level, NOBODY)
  if wait > 0 and pressed(input, output, level) then wait, worst = wait_for(input, output, level, NOBODY) end
  return wait, worst
end

-- The provider refused a request that was granted in these buckets, and has been released.
local function refused(buckets)
  for n, w in ipairs(windows) do
    if w.learn then
      local limit = math.min(w.limit, w.total + w.held)
      if w.step > 1 then
        limit = math.max(limit, w.limit - w.step / 2)
        w.step, w.cut = 1, now
      elseif buckets[n] * w.width >= w.cut then
        if w.step == 0 and now - w.cut < REPEAT then limit = math.floor(limit * CUT) end
        w.step, w.cut = 0, now
      end
      w.probe = now + PROBE
      learn(n, w, math.max(1, limit))
    end
  end
end

-- Charge every window, whatever is in it; the grant's buckets.
local function charge(input, output)
  local buckets = {}
  for n, w in ipairs(windows) do
    local now_charged, held = w.req + w.inp * input, w.out * output
    add(w, w.last, now_charged)
    w.held = w.held + held
    w.line = w.line + now_charged + held
    buckets[n] = w.last
  end
  return buckets
end

-- Grant nothing for a while. A gate only ever moves later.
local function close_for(us, window)
  local till = now + us
  if till > (tonumber(redis.call('HGET', KEYS[1], 'g')) or 0) then
    redis.call('HSET', KEYS[1], 'g', whole(till), 'gw', window)
  end
end

-- What a provider has said of it: us that are left, and the window that it named.
local function told()
  if now >= gate or gate_window == JOINING then return 0, '' end
  return gate - now, gate_window
end

-- What a reservation leaves behind for whoever must end it: input, output, buckets, level, weight, tenant.
local function remember(replica, id, input, output, buckets, level, weight, tenant)
  local record = cmsgpack.pack({input, output, buckets, level, weight, tenant})
  redis.call('HSET', P .. 'live:' .. replica, id, record)
end
