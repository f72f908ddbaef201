-- A replica renews its lease and asks about its waiters; the dead are swept.
--
-- ARGV[3] replica, [4] us after which its lease ends, [5] epoch, [6..] ids that wait at this replica
-- Returns {now us, replicas alive, us that are left of a gate that the provider closed, the window that it named,
--   then used, held and limit of each window, then of each id that does not wait here the id, and the record of its
--   reservation if it was granted, else ''}. So a grant whose message was lost is found.
-- Atomic because a dead replica's quota and places must go to the living once.

-- What a dead replica may have spent stays charged; its places are free.
local function sweep(replica)
  load_windows()
  local live = prefix .. KEY_LIVE .. replica
  for _, packed in ipairs(redis.call('HVALS', live)) do
    local held = cmsgpack.unpack(packed)[LIVE_OUTPUT]
    for _, w in ipairs(windows) do
      w.held = w.held - w.output * held
      add(w, w.newest, w.output * held)
    end
  end
  redis.call('DEL', live)
  for _, id in ipairs(redis.call('HKEYS', prefix .. KEY_WAITERS)) do
    local waiter = load_waiter(id)
    if waiter.replica == replica then dequeue(waiter, OUTCOME_REPLICA_LOST) end
  end
  if queue_length() > 0 then dispatch() end
  save_windows()
end

if is_other_epoch(ARGV[5]) then return epoch_mismatch() end
local replicas = prefix .. KEY_REPLICAS
local lease_ends = whole(now + tonumber(ARGV[4]))
redis.call('ZADD', replicas, lease_ends, ARGV[3])
-- No lease can end later, unless it was renewed before the clock was set back.
for _, replica in ipairs(redis.call('ZRANGEBYSCORE', replicas, '(' .. lease_ends, '+inf')) do
  redis.call('ZADD', replicas, lease_ends, replica)
end
for _, replica in ipairs(redis.call('ZRANGEBYSCORE', replicas, '-inf', whole(now))) do
  redis.call('ZREM', replicas, replica)
  sweep(replica)
end
load_windows()
save_windows()
local reply = with_window_status({whole(now), redis.call('ZCARD', replicas), provider_gate()})
for i = 6, #ARGV do
  if redis.call('HEXISTS', prefix .. KEY_WAITERS, ARGV[i]) == 0 then
    reply[#reply + 1] = ARGV[i]
    reply[#reply + 1] = redis.call('HGET', prefix .. KEY_LIVE .. ARGV[3], ARGV[i]) or ''
  end
end
return reply
