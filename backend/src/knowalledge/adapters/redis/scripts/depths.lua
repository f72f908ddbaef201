-- The room by level. Returns per level 0..3:
--   {waiting, us that its oldest has waited, us until a newcomer's turn, {tenant, waiting, ...}, {ending, count, ...}}
local ENDINGS = {'granted', 'shed', 'timed_out', 'cancelled', 'replica_lost', 'shutting_down'}
local TENANTS = 100
open()
local n = sizes()
local reply = {}
for level = 0, 3 do
  local waited = 0
  if n[level] > 0 then
    local _, arrived = first(P .. 'line:' .. level)
    waited = now - arrived
  end
  local ahead, input, output = before(level)
  local tenants, left = {}, {}
  for _, tenant in ipairs(redis.call('ZRANGE', P .. 'served:' .. level, 0, TENANTS - 1)) do
    tenants[#tenants + 1] = tenant
    tenants[#tenants + 1] = redis.call('ZCARD', P .. 'line:' .. level .. ':' .. tenant)
  end
  for _, ending in ipairs(ENDINGS) do
    local count = tonumber(redis.call('HGET', KEYS[1], 'e' .. level .. ending))
    if count then
      left[#left + 1] = ending
      left[#left + 1] = count
    end
  end
  local wait = eta(ahead, input, output, 0, 0, level)
  reply[#reply + 1] = {n[level], waited, wait, tenants, left}
end
close()
return reply
