-- A replica joins this state: for the first time, or after it could not ask, or after Redis has lost the state. What
-- it has spent meanwhile (all that it has spent, if the state is new to it) is charged; its reservations are put right.
-- ARGV[3] replica, [4] us of silence after which it counts as dead, [5] the epoch that it has found, or nothing,
--   [6] the epoch to write if there is none,
--   [7] us for which nothing is granted, so that every replica may join before the first grant
--   [8] cmsgpack {charges, floors, limits, live, finished, pending, gate, window}
--     charges   per window {bucket, amount, ...}
--     floors    per window what all replicas together had used when last seen, 0 for windows that turn over soon
--     limits    per window its limit when last seen: what was learnt of it
--     live      {id, input, output, buckets, level, weight, tenant} of each reservation that has not ended
--     finished  ids of those that ended while it could not ask: their charges are among `charges`
--     pending   ids of those whose end may or may not have come here; it will be said again
--     gate      us that are left of the time for which the provider wants nothing, 0 if it may be asked; Redis' clock
--               may be another than the one by which the provider was heard. The latest that any replica brings stands
--     window    that the provider named with it
-- Returns the epoch of the state that it has joined; if that is not ARGV[5] and one was found, nothing was done.
-- Atomic because grants between the parts would be made twice.
local replica, epoch, live = ARGV[3], ARGV[5], P .. 'live:' .. ARGV[3]
local found = redis.call('HGET', KEYS[1], 'ep') or ''
if found ~= epoch then return found end
local state = cmsgpack.unpack(ARGV[8])
local charges, floors, finished = state[1], state[2], {}
open()
for n, w in ipairs(windows) do
  local own = charges[n]
  if w.learn and epoch == '' then learnt(n, w, state[3][n]) end
  if floors[n] > 0 then
    -- Some who spent of a long window are gone for good, so the parts do not add up: the last sight of the whole
    -- stands in for them.
    local sum = 0
    for i = 2, #own, 2 do sum = sum + own[i] end
    local parts = (tonumber(redis.call('HGET', KEYS[1], 's' .. n)) or 0) + sum
    local base = tonumber(redis.call('HGET', KEYS[1], 'b' .. n)) or 0
    local more = math.max(floors[n], parts, base)
    redis.call('HSET', KEYS[1], 's' .. n, whole(parts), 'b' .. n, whole(more))
    add(w, w.last, more - base)
  else
    for i = 1, #own, 2 do
      if own[i] <= w.last then add(w, own[i], own[i + 1]) else add(w, w.last, own[i + 1]) end
    end
  end
end
for _, id in ipairs(state[5]) do finished[id] = true end
local known, pending = {}, {}
for _, id in ipairs(state[6]) do pending[id] = true end
for _, r in ipairs(state[4]) do known[r[1]] = r end
local stored = redis.call('HGETALL', live)
for i = 1, #stored, 2 do
  local id, r = stored[i], cmsgpack.unpack(stored[i + 1])
  if known[id] then
    known[id] = nil
  elseif not pending[id] then
    for n, w in ipairs(windows) do
      w.held = w.held - w.out * r[2]
      -- Granted, but the answer never reached the replica: it was never spent.
      if not finished[id] then add(w, r[3][n], -(w.req + w.inp * r[1])) end
    end
    redis.call('HDEL', live, id)
  end
end
for id, r in pairs(known) do
  for _, w in ipairs(windows) do w.held = w.held + w.out * r[3] end
  remember(replica, id, r[2], r[3], r[4], r[5], r[6], r[7])
end
for _, id in ipairs(redis.call('HKEYS', P .. 'room')) do
  local w = waiter(id)
  if w.replica == replica then take(w) end
end
if state[7] > 0 then close_for(state[7], state[8]) end
if tonumber(ARGV[7]) > 0 then close_for(tonumber(ARGV[7]), JOINING) end
redis.call('ZADD', P .. 'alive', whole(now + tonumber(ARGV[4])), replica)
if epoch == '' then
  epoch = ARGV[6]
  redis.call('HSET', KEYS[1], 'ep', epoch)
end
close()
return epoch
