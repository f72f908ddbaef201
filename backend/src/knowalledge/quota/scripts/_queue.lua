-- The wait queue of one target: domain/queue.py and admission.py, step by step; the second prelude of every script.
--
-- Keys and their contents: schema.Key. The counters of the queue are fields of KEYS[1]: schema.Field.
-- A grant to a waiter is published to its replica's channel as {prefix, OUTCOME_GRANTED, id, input, output, buckets},
-- a shed waiter as {prefix, OUTCOME_SHED, id}.

-- Its channel begins like the keys: with what several environments on one Redis have of their own.
local function publish(replica, ...)
  local environment = string.match(prefix, '^(.-)kn:{')
  redis.call('PUBLISH', environment .. REPLICA_CHANNEL .. replica, cmsgpack.pack({prefix, ...}))
end

local function queue_length()
  return redis.call('HLEN', prefix .. KEY_WAITERS)
end

-- How many wait at each level.
local function level_sizes()
  local sizes = redis.call(
    'HMGET', KEYS[1], FIELD_WAITING_0, FIELD_WAITING_1, FIELD_WAITING_2, FIELD_WAITING_3
  )
  return {
    [0] = tonumber(sizes[1]) or 0, tonumber(sizes[2]) or 0, tonumber(sizes[3]) or 0, tonumber(sizes[4]) or 0,
  }
end

local function load_waiter(id)
  local packed = redis.call('HGET', prefix .. KEY_WAITERS, id)
  if not packed then return nil end
  local record = cmsgpack.unpack(packed)
  return {
    id = id, level = record[WAITER_LEVEL], input = record[WAITER_INPUT], output = record[WAITER_OUTPUT],
    arrived = record[WAITER_ARRIVED], replica = record[WAITER_REPLICA], weight = record[WAITER_WEIGHT],
    tenant = record[WAITER_TENANT],
  }
end

-- The record is a schema.WaiterRecord.
local function save_waiter(waiter)
  local arrivals = prefix .. KEY_ARRIVALS .. waiter.level
  redis.call('ZADD', arrivals .. ':' .. waiter.tenant, whole(waiter.arrived), waiter.id)
  redis.call('ZADD', arrivals, whole(waiter.arrived), waiter.id)
  local record = cmsgpack.pack({
    waiter.level, waiter.input, waiter.output, waiter.arrived, waiter.replica, waiter.weight, waiter.tenant,
  })
  redis.call('HSET', prefix .. KEY_WAITERS, waiter.id, record)
end

local function count_waiting(level, by, input, output)
  redis.call('HINCRBY', KEYS[1], FIELD_WAITING .. level, by)
  redis.call('HINCRBY', KEYS[1], FIELD_WAITING_INPUT .. level, whole(by * input))
  redis.call('HINCRBY', KEYS[1], FIELD_WAITING_OUTPUT .. level, whole(by * output))
end

-- The number of places of a waiter's tenant has changed.
local function save_places(waiter)
  local count = redis.call('ZCARD', prefix .. KEY_ARRIVALS .. waiter.level .. ':' .. waiter.tenant)
  local places = prefix .. KEY_PLACES .. waiter.level
  if count == 0 then
    redis.call('ZREM', places, waiter.tenant)
  else
    redis.call('ZADD', places, string.format('%.17g', count / waiter.weight), waiter.tenant)
  end
end

-- A tenant that comes back from idling starts at the level's minimum: no credit for the time it asked for nothing.
local function enqueue(waiter)
  local served = prefix .. KEY_SERVED .. waiter.level
  if redis.call('EXISTS', prefix .. KEY_ARRIVALS .. waiter.level .. ':' .. waiter.tenant) == 0 then
    local least = tonumber(redis.call('ZRANGE', served, 0, 0, 'WITHSCORES')[2] or 0)
    local idle = prefix .. KEY_IDLE .. waiter.level
    local kept = tonumber(redis.call('ZSCORE', idle, waiter.tenant) or 0)
    redis.call('ZREM', idle, waiter.tenant)
    redis.call('ZADD', served, string.format('%.17g', math.max(kept, least)), waiter.tenant)
  end
  save_waiter(waiter)
  count_waiting(waiter.level, 1, waiter.input, waiter.output)
  save_places(waiter)
end

-- The tenant has no waiter any more: keep its counter, and forget the idle tenants that are one too many.
local function keep_idle(waiter)
  local served, idle = prefix .. KEY_SERVED .. waiter.level, prefix .. KEY_IDLE .. waiter.level
  local score = redis.call('ZSCORE', served, waiter.tenant)
  redis.call('ZREM', served, waiter.tenant)
  redis.call('ZADD', idle, score, waiter.tenant)
  for _, tenant in ipairs(redis.call('ZRANGE', idle, 0, -REMEMBERED_TENANTS - 1)) do
    redis.call('ZREM', idle, tenant)
    for _, outcome in ipairs({ALL_OUTCOMES}) do
      redis.call('HDEL', prefix .. KEY_LEFT .. waiter.level, outcome .. ':' .. tenant)
    end
  end
end

-- Without an outcome the place is only taken up elsewhere.
local function dequeue(waiter, outcome)
  if outcome then
    redis.call('HINCRBY', KEYS[1], FIELD_LEFT .. waiter.level .. outcome, 1)
    redis.call('HINCRBY', prefix .. KEY_LEFT .. waiter.level, outcome .. ':' .. waiter.tenant, 1)
  end
  local arrivals = prefix .. KEY_ARRIVALS .. waiter.level
  local own = arrivals .. ':' .. waiter.tenant
  redis.call('HDEL', prefix .. KEY_WAITERS, waiter.id)
  redis.call('ZREM', arrivals, waiter.id)
  redis.call('ZREM', own, waiter.id)
  count_waiting(waiter.level, -1, waiter.input, waiter.output)
  save_places(waiter)
  if redis.call('EXISTS', own) == 0 then keep_idle(waiter) end
end

-- The first of a zset of arrivals: id, moment.
local function oldest(arrivals)
  local first = redis.call('ZRANGE', arrivals, 0, 0, 'WITHSCORES')
  return first[1], tonumber(first[2])
end

-- The clock was set back: every waiter has waited for as long as before.
function set_back_queue(by)
  for _, id in ipairs(redis.call('HKEYS', prefix .. KEY_WAITERS)) do
    local waiter = load_waiter(id)
    waiter.arrived = waiter.arrived - by
    save_waiter(waiter)
  end
  local period = tonumber(redis.call('HGET', KEYS[1], FIELD_PERIOD))
  if period then redis.call('HSET', KEYS[1], FIELD_PERIOD, whole(period - math.floor(by / PERIOD_US))) end
end

-- The oldest aged waiter of a level below `top`, when the aged have a turn.
local function next_aged(top, sizes)
  if (tonumber(redis.call('HGET', KEYS[1], FIELD_SINCE_AGED)) or 0) < AGED_EVERY - 1 then return nil end
  local aged_since = latest - config[CONFIG_AGING_US]
  local next_id, since
  for level = top + 1, LOWEST_LEVEL do
    if sizes[level] > 0 then
      local id, arrived = oldest(prefix .. KEY_ARRIVALS .. level)
      if arrived <= aged_since and (not since or arrived < since or (arrived == since and id < next_id)) then
        next_id, since = id, arrived
      end
    end
  end
  return next_id
end

-- Whether a newcomer of this level may be granted before every waiter.
local function may_bypass(level)
  local sizes = level_sizes()
  for other = 0, level do
    if sizes[other] > 0 then return false end
  end
  return next_aged(level, sizes) == nil
end

-- Within a level: the tenant that was granted least; of equal tenants the one whose first waiter came first.
local function next_in_level(level)
  local served = prefix .. KEY_SERVED .. level
  local least = redis.call('ZRANGE', served, 0, 0, 'WITHSCORES')[2]
  local next_id, since
  for _, tenant in ipairs(redis.call('ZRANGEBYSCORE', served, least, least)) do
    local id, arrived = oldest(prefix .. KEY_ARRIVALS .. level .. ':' .. tenant)
    if not since or arrived < since or (arrived == since and id < next_id) then next_id, since = id, arrived end
  end
  return next_id
end

-- Grants of each level in this period, then of each level in the period before; and this period's number.
local function recent_grants()
  local stored = redis.call(
    'HMGET', KEYS[1], FIELD_GRANTS_0, FIELD_GRANTS_1, FIELD_GRANTS_2, FIELD_GRANTS_3, FIELD_GRANTS_BEFORE_0,
    FIELD_GRANTS_BEFORE_1, FIELD_GRANTS_BEFORE_2, FIELD_GRANTS_BEFORE_3, FIELD_PERIOD
  )
  local grants, counted = {}, tonumber(stored[9]) or 0
  for i = 1, 8 do grants[i] = tonumber(stored[i]) or 0 end
  local period = math.floor(latest / PERIOD_US)
  if period > counted then
    for i = 1, 4 do
      grants[i + 4] = period == counted + 1 and grants[i] or 0
      grants[i] = 0
    end
  end
  return grants, math.max(period, counted)
end

local function record_grant(level)
  local grants, period = recent_grants()
  grants[level + 1] = grants[level + 1] + 1
  redis.call(
    'HSET', KEYS[1], FIELD_GRANTS_0, grants[1], FIELD_GRANTS_1, grants[2], FIELD_GRANTS_2, grants[3],
    FIELD_GRANTS_3, grants[4], FIELD_GRANTS_BEFORE_0, grants[5], FIELD_GRANTS_BEFORE_1, grants[6],
    FIELD_GRANTS_BEFORE_2, grants[7], FIELD_GRANTS_BEFORE_3, grants[8], FIELD_PERIOD, whole(period)
  )
end

-- Factor by which a turn takes longer because higher priorities keep coming: from their part of the recent grants.
local function slowdown(level)
  local grants = recent_grants()
  local total, above = 1, 0 -- one for the newcomer itself: no grants prove nothing
  for other = 0, LOWEST_LEVEL do
    local count = grants[other + 1] + grants[other + 5]
    total = total + count
    if other < level then above = above + count end
  end
  return math.min(MAX_SLOWDOWN, total / (total - above))
end

-- Grant what fits, in order. Returns how many, and microseconds until the next would fit, 0 if none waits.
local function dispatch()
  for granted = 0, BATCH_SIZE - 1 do
    local sizes = level_sizes()
    local top, bottom
    for level = 0, LOWEST_LEVEL do
      if sizes[level] > 0 then top, bottom = top or level, level end
    end
    if not top then return granted, 0 end
    local waiter = load_waiter(next_aged(top, sizes) or next_in_level(top))
    local level, tenant, input, output = waiter.level, waiter.tenant, waiter.input, waiter.output
    local wait = wait_after_probe(input, output, level)
    if wait > 0 then return granted, wait end
    local buckets = charge(input, output)
    save_live(waiter.replica, waiter.id, input, output, buckets, level, waiter.weight, tenant)
    if level > top or level == bottom then
      redis.call('HSET', KEYS[1], FIELD_SINCE_AGED, 0)
    else
      redis.call('HINCRBY', KEYS[1], FIELD_SINCE_AGED, 1)
    end
    local weighted = string.format('%.17g', (input + output) / waiter.weight)
    redis.call('ZINCRBY', prefix .. KEY_SERVED .. level, weighted, tenant)
    record_grant(level)
    dequeue(waiter, OUTCOME_GRANTED)
    publish(waiter.replica, OUTCOME_GRANTED, waiter.id, input, output, buckets)
  end
  return BATCH_SIZE, 1
end

-- How many are ahead of a newcomer, their input and their output: higher priorities, and all of its own level.
local function backlog(level)
  local ahead, input, output = 0, 0, 0
  for other = 0, level do
    local stored = redis.call(
      'HMGET', KEYS[1], FIELD_WAITING .. other, FIELD_WAITING_INPUT .. other, FIELD_WAITING_OUTPUT .. other
    )
    ahead = ahead + (tonumber(stored[1]) or 0)
    input = input + (tonumber(stored[2]) or 0)
    output = output + (tonumber(stored[3]) or 0)
  end
  return ahead, input, output
end

-- The same if the tenants of the level, with equal costs, had one grant each in turn.
local function backlog_in_turns(level, tenant)
  local ahead, input, output = backlog(level)
  local stored = redis.call(
    'HMGET', KEYS[1], FIELD_WAITING .. level, FIELD_WAITING_INPUT .. level, FIELD_WAITING_OUTPUT .. level
  )
  local size = tonumber(stored[1]) or 0
  local own = redis.call('ZCARD', prefix .. KEY_ARRIVALS .. level .. ':' .. tenant)
  local tenants = redis.call('ZCARD', prefix .. KEY_SERVED .. level)
  if own == 0 then tenants = tenants + 1 end
  local turns = (own + 1) * tenants - 1
  if turns >= size then return ahead, input, output end
  return ahead - size + turns,
    input - stored[2] + math.floor(stored[2] * turns / size),
    output - stored[3] + math.floor(stored[3] * turns / size)
end

-- Microseconds until the turn of a request with this backlog, and what it waits for; see wait_for.
-- The backlog, and what is being answered, will release what recent answers released.
local function eta(ahead, ahead_input, ahead_output, input, output, level)
  local ratio = output_ratio()
  local wait, waits_for = wait_for(
    input, output, level, {ahead, ahead_input, math.floor(ahead_output * ratio), 1 - ratio}
  )
  if wait == 0 then
    wait, waits_for = wait_for(input, output, level, {ahead, ahead_input, ahead_output, 0})
    wait = math.min(wait, SOON_US)
  end
  return wait * slowdown(level), waits_for
end

-- The newest waiter of the lowest level below this one.
local function newest_below(level)
  for lower = LOWEST_LEVEL, level + 1, -1 do
    local id = redis.call('ZREVRANGE', prefix .. KEY_ARRIVALS .. lower, 0, 0)[1]
    if id then return load_waiter(id) end
  end
  return nil
end

-- The newest waiter of the tenant with the most places in a level, if that has more than this tenant would have.
local function newest_of_largest_tenant(level, tenant, weight)
  local largest = redis.call('ZREVRANGE', prefix .. KEY_PLACES .. level, 0, 0, 'WITHSCORES')
  local arrivals = prefix .. KEY_ARRIVALS .. level .. ':'
  if not largest[1] or tonumber(largest[2]) <= (redis.call('ZCARD', arrivals .. tenant) + 1) / weight then
    return nil
  end
  return load_waiter(redis.call('ZREVRANGE', arrivals .. largest[1], 0, 0)[1])
end

-- The reply, followed by what each window has used, holds, and allows.
local function with_window_status(reply)
  for _, w in ipairs(windows) do
    reply[#reply + 1] = w.charged + w.held
    reply[#reply + 1] = w.held
    reply[#reply + 1] = w.limit
  end
  return reply
end
