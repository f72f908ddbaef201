-- How much is stored: every live entry counted, bytes by a sample.
-- KEYS[1] the index of everything, [2] a prefix of entries. Returns {entries, mean bytes of an entry}.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', number(now))
local count, bytes, seen = redis.call('ZCARD', KEYS[1]), 0, 0
if count > 0 then
  for _, name in ipairs(redis.call('ZRANDMEMBER', KEYS[1], 32)) do
    local length = redis.call('STRLEN', KEYS[2] .. name)
    if length > 0 then bytes, seen = bytes + length, seen + 1 end
  end
end
if seen == 0 then return {0, 0} end
return {count, math.floor(bytes / seen)}
