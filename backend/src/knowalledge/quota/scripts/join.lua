-- A replica joins this state: for the first time, after it was degraded, or after Redis lost the state. What it has
-- spent meanwhile (all that it has spent, if the state is new to it) is charged, and its reservations are put right.
--
-- ARGV[3] replica, [4] us after which its lease ends, [5] the epoch that it found, or '', [6] the epoch to write if
--   there is none, [7] us for which nothing is granted, so that every replica may join before the first grant,
--   [8] packed schema.LocalUsageRecord:
--     charges     for each window {bucket, amount, ...}
--     floors      for each window what all replicas together had used when last seen, 0 for short windows
--     limits      for each window its limit when last seen: what was learnt of it
--     live        {id, then a LiveRecord} of each reservation that has not ended
--     finished    ids of those that ended while the replica was degraded: their charges are among `charges`
--     pending     ids of those whose end may or may not have come here; it will come again
--     gate_us     us that are left of a gate that the provider closed, or 0: Redis' clock may differ from the
--                 replica's. The latest end that any replica brings stands
--     gate_window the window that the provider named
--     is_new      whether this state is new to the replica
-- ARGV[9] the windows of the replica. A state that living replicas keep with other windows refuses it
-- Returns the epoch of the state in Redis; if that is not ARGV[5], nothing was joined, unless there was none.
-- Atomic because what is granted between the parts would be granted twice.
local replica, epoch, live = ARGV[3], ARGV[5], prefix .. KEY_LIVE .. ARGV[3]
local stored_epoch = redis.call('HGET', KEYS[1], FIELD_EPOCH) or ''
if stored_epoch ~= epoch then return stored_epoch end
local layout = epoch ~= '' and redis.call('HGET', KEYS[1], FIELD_LAYOUT)
if layout and layout ~= ARGV[9] then
  local alive = redis.call('ZCOUNT', prefix .. KEY_REPLICAS, whole(now), '+inf')
  return {err = LAYOUT_MISMATCH .. ' ' .. alive}
end
local usage = cmsgpack.unpack(ARGV[8])
load_windows()

-- Replicas that spent of a long window may be gone for good, so the parts do not add up to the whole. What was last
-- seen of the whole stands in for them.
local function add_long(n, w, charges, floor)
  local sum = 0
  for i = 2, #charges, 2 do sum = sum + charges[i] end
  local joined = (tonumber(redis.call('HGET', KEYS[1], FIELD_JOINED .. n)) or 0) + sum
  local base = tonumber(redis.call('HGET', KEYS[1], FIELD_JOINED_BASE .. n)) or 0
  local whole_use = math.max(floor, joined, base)
  redis.call('HSET', KEYS[1], FIELD_JOINED .. n, whole(joined), FIELD_JOINED_BASE .. n, whole(whole_use))
  add(w, w.newest, whole_use - base)
end

for n, w in ipairs(windows) do
  local charges, floor = usage[USAGE_CHARGES][n], usage[USAGE_FLOORS][n]
  if w.learn and epoch == '' then adopt_ceiling(n, w, usage[USAGE_LIMITS][n]) end
  if floor > 0 then
    add_long(n, w, charges, floor)
  else
    for i = 1, #charges, 2 do add(w, math.min(charges[i], w.newest), charges[i + 1]) end
  end
end

-- Reservations: `own` are those that the replica knows; what is left of them after the loop is new here.
local own, finished, pending = {}, {}, {}
for _, record in ipairs(usage[USAGE_LIVE]) do own[record[1]] = record end
for _, id in ipairs(usage[USAGE_FINISHED]) do finished[id] = true end
for _, id in ipairs(usage[USAGE_PENDING]) do pending[id] = true end
-- What is left of an older state.
if usage[USAGE_IS_NEW] then redis.call('DEL', live) end
local stored = redis.call('HGETALL', live)
for i = 1, #stored, 2 do
  local id, record = stored[i], cmsgpack.unpack(stored[i + 1])
  if own[id] then
    own[id] = nil
  elseif not pending[id] then
    for n, w in ipairs(windows) do
      w.held = w.held - w.output * record[LIVE_OUTPUT]
      -- Granted, but the reply never reached the replica: nothing was spent.
      if not finished[id] then
        add(w, record[LIVE_BUCKETS][n], -(w.requests + w.input * record[LIVE_INPUT]))
      end
    end
    redis.call('HDEL', live, id)
  end
end
for id, record in pairs(own) do
  local _, input, output, buckets, level, weight, tenant = unpack(record)
  for _, w in ipairs(windows) do w.held = w.held + w.output * output end
  save_live(replica, id, input, output, buckets, level, weight, tenant)
end

-- Its waiters reserve again.
for _, id in ipairs(redis.call('HKEYS', prefix .. KEY_WAITERS)) do
  local waiter = load_waiter(id)
  if waiter.replica == replica then dequeue(waiter) end
end
if usage[USAGE_GATE_US] > 0 then close_gate(usage[USAGE_GATE_US], usage[USAGE_GATE_WINDOW]) end
if tonumber(ARGV[7]) > 0 then close_gate(tonumber(ARGV[7]), GATE_OF_JOIN) end
redis.call('ZADD', prefix .. KEY_REPLICAS, whole(now + tonumber(ARGV[4])), replica)
redis.call('HSET', KEYS[1], FIELD_LAYOUT, ARGV[9])
if epoch == '' then
  epoch = ARGV[6]
  redis.call('HSET', KEYS[1], FIELD_EPOCH, epoch)
end
save_windows()
return epoch
