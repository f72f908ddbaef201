-- The waiting room of one target, as domain/admission.py has it; the second prelude.
--
--   P .. room            hash  waiter id -> {level, input, output, arrived, replica, weight, tenant}
--   P .. line:<L>        zset  waiter id by arrival, per level
--   P .. line:<L>:<T>    zset  the same per tenant
--   P .. served:<L>      zset  tenants with somebody waiting, by weighted tokens served
--   P .. crowd:<L>       zset  the same tenants by how many wait, weighted
--   P .. idle:<L>        zset  tenants without, bounded
--   P .. left:<L>        hash  <ending>:<T> how many of these tenants' waiters have left that way
--   KEYS[1] also holds   e<L><ending> how many have left that way, n<L> waiting, i<L> and o<L> what they need, sa grants since one went to the lowest level that waits, in its turn or before it,
--                        g<L> and f<L> grants in this look-back and in the one before, gt which one this is
-- A grant to a waiter is published to its replica on kn:replica:<replica>, as {P, 'granted', id, input, output,
-- buckets}; one that is shed as {P, 'shed', id}.

local AGED_EVERY, REMEMBERED, BATCH = 20, 1000, 64
local ENDINGS = {'granted', 'shed', 'timed_out', 'cancelled', 'replica_lost', 'shutting_down'}
local LOOK_BACK, SLOWEST, SOON = 30000000, 10, 1000000

local function tell(replica, ...)
  redis.call('PUBLISH', 'kn:replica:' .. replica, cmsgpack.pack({P, ...}))
end

local function waiting()
  return redis.call('HLEN', P .. 'room')
end

local function sizes()
  local got = redis.call('HMGET', KEYS[1], 'n0', 'n1', 'n2', 'n3')
  return {[0] = tonumber(got[1]) or 0, tonumber(got[2]) or 0, tonumber(got[3]) or 0, tonumber(got[4]) or 0}
end

local function waiter(id)
  local record = redis.call('HGET', P .. 'room', id)
  if not record then return nil end
  local r = cmsgpack.unpack(record)
  return {
    id = id, level = r[1], input = r[2], output = r[3], arrived = r[4], replica = r[5], weight = r[6], tenant = r[7],
  }
end

local function count(level, by, input, output)
  redis.call('HINCRBY', KEYS[1], 'n' .. level, by)
  redis.call('HINCRBY', KEYS[1], 'i' .. level, whole(by * input))
  redis.call('HINCRBY', KEYS[1], 'o' .. level, whole(by * output))
end

-- How many of a waiter's tenant wait has changed.
local function crowd(w)
  local n = redis.call('ZCARD', P .. 'line:' .. w.level .. ':' .. w.tenant)
  local all = P .. 'crowd:' .. w.level
  if n == 0 then
    redis.call('ZREM', all, w.tenant)
  else
    redis.call('ZADD', all, string.format('%.17g', n / w.weight), w.tenant)
  end
end

local function put(w)
  local line, served = P .. 'line:' .. w.level, P .. 'served:' .. w.level
  local own = line .. ':' .. w.tenant
  if redis.call('EXISTS', own) == 0 then
    local first = redis.call('ZRANGE', served, 0, 0, 'WITHSCORES')
    local least = tonumber(first[2] or 0)
    local kept = tonumber(redis.call('ZSCORE', P .. 'idle:' .. w.level, w.tenant) or 0)
    redis.call('ZREM', P .. 'idle:' .. w.level, w.tenant)
    redis.call('ZADD', served, string.format('%.17g', math.max(kept, least)), w.tenant)
  end
  redis.call('ZADD', own, whole(w.arrived), w.id)
  redis.call('ZADD', line, whole(w.arrived), w.id)
  local record = cmsgpack.pack({w.level, w.input, w.output, w.arrived, w.replica, w.weight, w.tenant})
  redis.call('HSET', P .. 'room', w.id, record)
  count(w.level, 1, w.input, w.output)
  crowd(w)
end

local function take(w, ending)
  local left = P .. 'left:' .. w.level
  if ending then
    redis.call('HINCRBY', KEYS[1], 'e' .. w.level .. ending, 1)
    redis.call('HINCRBY', left, ending .. ':' .. w.tenant, 1)
  end
  local line, served = P .. 'line:' .. w.level, P .. 'served:' .. w.level
  local own = line .. ':' .. w.tenant
  redis.call('HDEL', P .. 'room', w.id)
  redis.call('ZREM', line, w.id)
  redis.call('ZREM', own, w.id)
  count(w.level, -1, w.input, w.output)
  crowd(w)
  if redis.call('EXISTS', own) == 0 then
    local score = redis.call('ZSCORE', served, w.tenant)
    local idle = P .. 'idle:' .. w.level
    redis.call('ZREM', served, w.tenant)
    redis.call('ZADD', idle, score, w.tenant)
    for _, name in ipairs(redis.call('ZRANGE', idle, 0, -REMEMBERED - 1)) do
      redis.call('ZREM', idle, name)
      for _, of in ipairs(ENDINGS) do redis.call('HDEL', left, of .. ':' .. name) end
    end
  end
end

-- The first of a line by arrival: id, arrived.
local function first(line)
  local got = redis.call('ZRANGE', line, 0, 0, 'WITHSCORES')
  return got[1], tonumber(got[2])
end

-- The oldest aged waiter below `top`, when it is the turn of the aged.
local function due(top, n)
  if (tonumber(redis.call('HGET', KEYS[1], 'sa')) or 0) < AGED_EVERY - 1 then return nil end
  local found, since
  for level = top + 1, 3 do
    if n[level] > 0 then
      local id, arrived = first(P .. 'line:' .. level)
      if arrived <= now - cfg[2] and (not since or arrived < since or (arrived == since and id < found)) then
        found, since = id, arrived
      end
    end
  end
  return found
end

-- Whether a newcomer of this level may be served before everybody who waits.
local function passes(level)
  local n = sizes()
  for other = 0, level do
    if n[other] > 0 then return false end
  end
  return due(level, n) == nil
end

-- Within a level: the tenant that was served least, of equals the one whose first came first.
local function next_of(level)
  local served = P .. 'served:' .. level
  local least = redis.call('ZRANGE', served, 0, 0, 'WITHSCORES')[2]
  local found, since
  for _, tenant in ipairs(redis.call('ZRANGEBYSCORE', served, least, least)) do
    local id, arrived = first(P .. 'line:' .. level .. ':' .. tenant)
    if not since or arrived < since or (arrived == since and id < found) then found, since = id, arrived end
  end
  return found
end

-- The grants of each level in this look-back and in the one before.
local function grants()
  local got = redis.call('HMGET', KEYS[1], 'g0', 'g1', 'g2', 'g3', 'f0', 'f1', 'f2', 'f3', 'gt')
  local counts, was = {}, tonumber(got[9]) or 0
  for i = 1, 8 do counts[i] = tonumber(got[i]) or 0 end
  local look = math.floor(now / LOOK_BACK)
  if look > was then
    for i = 1, 4 do
      counts[i + 4] = look == was + 1 and counts[i] or 0
      counts[i] = 0
    end
  end
  return counts, math.max(look, was)
end

local function served_one(level)
  local counts, look = grants()
  counts[level + 1] = counts[level + 1] + 1
  redis.call('HSET', KEYS[1], 'g0', counts[1], 'g1', counts[2], 'g2', counts[3], 'g3', counts[4],
    'f0', counts[5], 'f1', counts[6], 'f2', counts[7], 'f3', counts[8], 'gt', whole(look))
end

-- By how much longer a turn takes because the more urgent keep coming.
local function slowed(level)
  local counts = grants()
  local total, above = 1, 0
  for other = 0, 3 do
    local count = counts[other + 1] + counts[other + 5]
    total = total + count
    if other < level then above = above + count end
  end
  return math.min(SLOWEST, total / (total - above))
end

-- Grant what fits, in order. Returns how many, and microseconds until the next would fit, 0 if nobody waits.
local function dispatch()
  for granted = 0, BATCH - 1 do
    local n = sizes()
    local top, bottom
    for level = 0, 3 do
      if n[level] > 0 then top, bottom = top or level, level end
    end
    if not top then return granted, 0 end
    local w = waiter(due(top, n) or next_of(top))
    local wait = turn(w.input, w.output, w.level)
    if wait > 0 then return granted, wait end
    local buckets = charge(w.input, w.output)
    remember(w.replica, w.id, w.input, w.output, buckets, w.level, w.weight, w.tenant)
    if w.level > top or w.level == bottom then
      redis.call('HSET', KEYS[1], 'sa', 0)
    else
      redis.call('HINCRBY', KEYS[1], 'sa', 1)
    end
    redis.call('ZINCRBY', P .. 'served:' .. w.level, string.format('%.17g', (w.input + w.output) / w.weight), w.tenant)
    served_one(w.level)
    take(w, 'granted')
    tell(w.replica, 'granted', w.id, w.input, w.output, buckets)
  end
  return BATCH, 1
end

-- How many are ahead, and what they need: the more urgent levels and all of its own.
local function before(level)
  local ahead, input, output = 0, 0, 0
  for other = 0, level do
    local got = redis.call('HMGET', KEYS[1], 'n' .. other, 'i' .. other, 'o' .. other)
    ahead = ahead + (tonumber(got[1]) or 0)
    input = input + (tonumber(got[2]) or 0)
    output = output + (tonumber(got[3]) or 0)
  end
  return ahead, input, output
end

-- The same if all tenants of the level, taken for equals, were served one after the other.
local function before_in_turns(level, tenant)
  local ahead, input, output = before(level)
  local got = redis.call('HMGET', KEYS[1], 'n' .. level, 'i' .. level, 'o' .. level)
  local size = tonumber(got[1]) or 0
  local own = redis.call('ZCARD', P .. 'line:' .. level .. ':' .. tenant)
  local tenants = redis.call('ZCARD', P .. 'served:' .. level)
  if own == 0 then tenants = tenants + 1 end
  local turns = (own + 1) * tenants - 1
  if turns >= size then return ahead, input, output end
  return ahead - size + turns,
    input - got[2] + math.floor(got[2] * turns / size),
    output - got[3] + math.floor(got[3] * turns / size)
end

-- Microseconds until the turn of one that has so many before it, who need so much; and what it waits for.
local function eta(ahead, ahead_input, ahead_output, input, output, level)
  local o = outcome()
  local likely = {ahead, ahead_input, math.floor(ahead_output * o), 1 - o}
  local wait, worst = wait_for(input, output, level, likely)
  if wait == 0 then
    wait, worst = wait_for(input, output, level, {ahead, ahead_input, ahead_output, 0})
    wait = math.min(wait, SOON)
  end
  return wait * slowed(level), worst
end

-- The newest waiter of the lowest level below this one.
local function newest_below(level)
  for lower = 3, level + 1, -1 do
    local id = redis.call('ZREVRANGE', P .. 'line:' .. lower, 0, 0)[1]
    if id then return waiter(id) end
  end
  return nil
end

-- The newest waiter of the tenant with the most places in a level, if it has more than this tenant would have.
local function newest_of_most(level, tenant, weight)
  local most = redis.call('ZREVRANGE', P .. 'crowd:' .. level, 0, 0, 'WITHSCORES')
  local line = P .. 'line:' .. level .. ':'
  if not most[1] or tonumber(most[2]) <= (redis.call('ZCARD', line .. tenant) + 1) / weight then return nil end
  return waiter(redis.call('ZREVRANGE', line .. most[1], 0, 0)[1])
end

local function levels(reply)
  for _, w in ipairs(windows) do
    reply[#reply + 1] = w.total + w.held
    reply[#reply + 1] = w.held
    reply[#reply + 1] = w.limit
  end
  return reply
end
