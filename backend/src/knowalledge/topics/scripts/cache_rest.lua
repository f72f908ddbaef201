-- Begin the backoff of a failed refresh, and return every known backoff; expired ones are removed.
-- KEYS[1] a hash: name -> beginning, length and expiry of its backoff, in milliseconds
-- ARGV empty: only read; or [1] name, [2] length, [3] retention after its end, [4] most to keep
-- Returns name, length, age, ...
-- Atomic because the bound must hold when replicas write at once.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if ARGV[1] then
  local known = ARGV[2] + ARGV[3]
  redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f %.0f %.0f', now, ARGV[2], now + known))
  if redis.call('PTTL', KEYS[1]) < known then redis.call('PEXPIRE', KEYS[1], known) end
end
local all, reply, first, soonest = redis.call('HGETALL', KEYS[1]), {}, nil, math.huge
for n = 1, #all, 2 do
  local began, length, forgotten = string.match(all[n + 1], '(%d+) (%d+) (%d+)')
  forgotten = tonumber(forgotten)
  if forgotten <= now then
    redis.call('HDEL', KEYS[1], all[n])
  else
    if forgotten < soonest then first, soonest = all[n], forgotten end
    for _, value in ipairs({ all[n], tonumber(length), now - began }) do reply[#reply + 1] = value end
  end
end
if ARGV[1] and #reply / 3 > tonumber(ARGV[4]) then redis.call('HDEL', KEYS[1], first) end
return reply
