-- The queue by level and tenant.
--
-- Returns for each level from the most urgent:
--   {waiting, us that its oldest has waited, eta us of a newcomer, how many tenants wait,
--    {{tenant, waiting, us that its oldest has waited, {outcome, count, ...}}, ...}, {outcome, count, ...}}
-- Atomic because the figures of a level belong to one state.
load_windows()

-- Outcomes that are counted in a hash, and their counts.
local function outcomes(key, before, after)
  local all, fields, counted = {ALL_OUTCOMES}, {}, {}
  for n, outcome in ipairs(all) do fields[n] = before .. outcome .. after end
  for n, count in ipairs(redis.call('HMGET', key, unpack(fields))) do
    if count then
      counted[#counted + 1] = all[n]
      counted[#counted + 1] = tonumber(count)
    end
  end
  return counted
end

-- Tenants that wait, the one granted least first; then idle tenants, the one granted most first.
local function tenants_of(level)
  local tenants = redis.call('ZRANGE', prefix .. KEY_SERVED .. level, 0, STATS_TENANTS - 1)
  if #tenants < STATS_TENANTS then
    local idle = redis.call('ZREVRANGE', prefix .. KEY_IDLE .. level, 0, STATS_TENANTS - 1 - #tenants)
    for _, tenant in ipairs(idle) do tenants[#tenants + 1] = tenant end
  end
  return tenants
end

local sizes = level_sizes()
local reply = {}
for level = 0, LOWEST_LEVEL do
  local waited = 0
  if sizes[level] > 0 then
    local _, arrived = oldest(prefix .. KEY_ARRIVALS .. level)
    waited = latest - arrived
  end
  local tenants = {}
  for _, tenant in ipairs(tenants_of(level)) do
    local arrivals = prefix .. KEY_ARRIVALS .. level .. ':' .. tenant
    local _, arrived = oldest(arrivals)
    tenants[#tenants + 1] = {
      tenant, redis.call('ZCARD', arrivals), arrived and latest - arrived or 0,
      outcomes(prefix .. KEY_LEFT .. level, '', ':' .. tenant),
    }
  end
  local ahead, input, output = backlog(level)
  local wait = eta(ahead, input, output, 0, 0, level)
  reply[#reply + 1] = {
    sizes[level], waited, wait, redis.call('ZCARD', prefix .. KEY_SERVED .. level), tenants,
    outcomes(KEYS[1], FIELD_LEFT .. level, ''),
  }
end
save_windows()
return reply
