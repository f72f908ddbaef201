-- End a reservation: settle it by the truth, or release it as if it had never been; whoever waits takes the room.
-- ARGV[3] id, [4] replica, [5] true input, [6] true output, [7] 1 settle | 0 release, [8] epoch,
--   [9] 1 the provider refused it
-- Returns 1, or 0 when the reservation was not live any more: it was swept, or is ended twice.
-- Atomic because a correction and the end of its hold must be seen together.
if forgotten(ARGV[8]) then return FORGOTTEN end
local live = P .. 'live:' .. ARGV[4]
local record = redis.call('HGET', live, ARGV[3])
if not record then return 0 end
redis.call('HDEL', live, ARGV[3])
open()
local r = cmsgpack.unpack(record)
local est, held, buckets, level, weight, tenant = r[1], r[2], r[3], r[4], r[5], r[6]
local input, output, settled = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
for n, w in ipairs(windows) do
  local charged = w.inp * (input - est) + w.req * (settled - 1)
  add(w, buckets[n], charged)
  w.held = w.held - w.out * held
  add(w, unguarded(w), w.out * output)
  repace(w, charged + w.out * (output - held))
end
local how = 'xr'
if ARGV[9] == '1' then
  refused(buckets)
  how = 'xl'
end
if settled == 1 then
  how = 'xs'
  answered(held, output)
  if input ~= est then redis.call('HINCRBY', KEYS[1], 'xi', input - est) end
  if output ~= held then redis.call('HINCRBY', KEYS[1], 'xo', output - held) end
  local served = P .. 'served:' .. level
  if not redis.call('ZSCORE', served, tenant) then served = P .. 'idle:' .. level end
  if redis.call('ZSCORE', served, tenant) then
    local more = (input + output) / weight - (est + held) / weight
    redis.call('ZINCRBY', served, string.format('%.17g', more), tenant)
  end
end
redis.call('HINCRBY', KEYS[1], how, 1)
if waiting() > 0 then dispatch() end
close()
return 1
