-- The room by level. Returns per level 0..3:
--   {waiting, us that its oldest has waited, us until a newcomer's turn, tenants with somebody waiting,
--    {{tenant, waiting, us that its oldest has waited, {ending, count, ...}}, ...}, {ending, count, ...}}
local TENANTS = 100
open()

local function endings(key, prefix, suffix)
  local fields, found = {}, {}
  for n, ending in ipairs(ENDINGS) do fields[n] = prefix .. ending .. suffix end
  for n, count in ipairs(redis.call('HMGET', key, unpack(fields))) do
    if count then
      found[#found + 1] = ENDINGS[n]
      found[#found + 1] = tonumber(count)
    end
  end
  return found
end

-- Tenants with somebody waiting, the least served first, then those seen lately, the most served first.
local function known(level)
  local names = redis.call('ZRANGE', P .. 'served:' .. level, 0, TENANTS - 1)
  if #names < TENANTS then
    for _, name in ipairs(redis.call('ZREVRANGE', P .. 'idle:' .. level, 0, TENANTS - 1 - #names)) do
      names[#names + 1] = name
    end
  end
  return names
end

local n = sizes()
local reply = {}
for level = 0, 3 do
  local waited = 0
  if n[level] > 0 then
    local _, arrived = first(P .. 'line:' .. level)
    waited = now - arrived
  end
  local ahead, input, output = before(level)
  local tenants = {}
  for _, name in ipairs(known(level)) do
    local line = P .. 'line:' .. level .. ':' .. name
    local _, arrived = first(line)
    local left = endings(P .. 'left:' .. level, '', ':' .. name)
    tenants[#tenants + 1] = {name, redis.call('ZCARD', line), arrived and now - arrived or 0, left}
  end
  local wait = eta(ahead, input, output, 0, 0, level)
  reply[#reply + 1] = {
    n[level], waited, wait, redis.call('ZCARD', P .. 'served:' .. level), tenants, endings(KEYS[1], 'e' .. level, ''),
  }
end
close()
return reply
