-- A replica says that it lives, and asks about its waiters; the dead are swept.
-- ARGV[3] replica, [4] us of silence after which it counts as dead, [5] epoch, [6..] ids of the waiters that it believes to have
-- Returns {now us, replicas alive, us that are left of what the provider has closed and the window that it named,
--   then per window used, held, limit, and id, record, ... of each id that does not wait here: the
--   record of its reservation if it was granted, else ''}. A grant message that was lost is found here.
-- Atomic because a dead replica's quota and places must go to the living once.
local function sweep(replica)
  open()
  local live = P .. 'live:' .. replica
  for _, record in ipairs(redis.call('HVALS', live)) do
    local r = cmsgpack.unpack(record)
    for _, w in ipairs(windows) do
      -- What it may have spent stays counted.
      w.held = w.held - w.out * r[2]
      add(w, w.last, w.out * r[2])
    end
  end
  redis.call('DEL', live)
  for _, id in ipairs(redis.call('HKEYS', P .. 'room')) do
    local w = waiter(id)
    if w.replica == replica then take(w, 'replica_lost') end
  end
  if waiting() > 0 then dispatch() end
  close()
end

if forgotten(ARGV[5]) then return FORGOTTEN end
local alive = P .. 'alive'
local lease = whole(now + tonumber(ARGV[4]))
redis.call('ZADD', alive, lease, ARGV[3])
-- A later end than anybody can have now is from before the clock was set back.
for _, replica in ipairs(redis.call('ZRANGEBYSCORE', alive, '(' .. lease, '+inf')) do
  redis.call('ZADD', alive, lease, replica)
end
for _, replica in ipairs(redis.call('ZRANGEBYSCORE', alive, '-inf', whole(now))) do
  redis.call('ZREM', alive, replica)
  sweep(replica)
end
open()
close()
local reply = levels({whole(now), redis.call('ZCARD', alive), told()})
for i = 6, #ARGV do
  if redis.call('HEXISTS', P .. 'room', ARGV[i]) == 0 then
    reply[#reply + 1] = ARGV[i]
    reply[#reply + 1] = redis.call('HGET', P .. 'live:' .. ARGV[3], ARGV[i]) or ''
  end
end
return reply
