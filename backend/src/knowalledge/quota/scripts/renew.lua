-- A grant reached its replica late: charge it as of now, because the provider will count it from now on.
--
-- ARGV[3] epoch, [4] replica, [5] id
-- Returns 1, or 0 if it is not to be spent: it has ended, or its charge has left a window in the
--   meantime. In that case it is released.
-- Atomic because between the old charge and the new one the quota would look free.
if is_other_epoch(ARGV[3]) then return epoch_mismatch() end
local live = prefix .. KEY_LIVE .. ARGV[4]
local packed = redis.call('HGET', live, ARGV[5])
if not packed then return 0 end
load_windows()
local record = cmsgpack.unpack(packed)
local buckets = record[LIVE_BUCKETS]
local forgotten = false
for n, w in ipairs(windows) do
  forgotten = forgotten or (w.day == 0 and w.newest - buckets[n] >= RING_SIZE)
end
for n, w in ipairs(windows) do
  local amount = w.requests + w.input * record[LIVE_INPUT]
  if forgotten then
    add(w, buckets[n], -amount)
    w.held = w.held - w.output * record[LIVE_OUTPUT]
  elseif w.day == 0 then
    add(w, buckets[n], -amount)
    add(w, w.newest, amount)
    buckets[n] = w.newest
  end
end
if forgotten then
  redis.call('HDEL', live, ARGV[5])
else
  redis.call('HSET', live, ARGV[5], cmsgpack.pack(record))
end
save_windows()
return forgotten and 0 or 1
