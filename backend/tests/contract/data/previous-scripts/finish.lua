-- End reservations of one replica, one after the other: settle them by the truth, or release them as if they had never
-- been. Then whoever waits takes the room.
-- ARGV[3] epoch, [4] replica, and from [5] on of each end: id, true input, true output, and how: 'xs' settled |
--   'xr' released | 'xl' refused by the provider
-- Returns how many were live; the others were swept, or had ended before.
-- Atomic because a correction and the end of its hold must be seen together.
if forgotten(ARGV[3]) then return FORGOTTEN end
local live = P .. 'live:' .. ARGV[4]

local function finish(id, input, output, how)
  local record = redis.call('HGET', live, id)
  if not record then return 0 end
  redis.call('HDEL', live, id)
  local r = cmsgpack.unpack(record)
  local est, held, buckets, level, weight, tenant = r[1], r[2], r[3], r[4], r[5], r[6]
  local settled = how == 'xs' and 1 or 0
  for n, w in ipairs(windows) do
    local charged = w.inp * (input - est) + w.req * (settled - 1)
    add(w, buckets[n], charged)
    w.held = w.held - w.out * held
    add(w, unguarded(w), w.out * output)
    repace(w, charged + w.out * (output - held))
  end
  if how == 'xl' then refused(buckets) end
  if settled == 1 then
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
  return 1
end

open()
local ended = 0
for at = 5, #ARGV, 4 do
  ended = ended + finish(ARGV[at], tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2]), ARGV[at + 3])
end
if ended > 0 and waiting() > 0 then dispatch() end
close()
return ended
