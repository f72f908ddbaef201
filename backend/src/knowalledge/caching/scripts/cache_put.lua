-- Store an entry unless one of its tags was invalidated after its generation; evict others to stay within the bound.
-- KEYS[1] the entry, [2] the generations, [3] the log, [4] the sizes, [5] the index of all, [6..] of its other tags
-- ARGV[1] name, [2] generation, [3] bytes, [4] lifetime in ms, [5] bound in bytes, [6] prefix, [7..] tags and barriers
-- Returns 1 if it was stored.
-- Atomic because an invalidation must not fall between the check and the write.
generation(KEYS[2], KEYS[3])
local tags = {}
for n = 7, #ARGV do tags[#tags + 1] = ARGV[n] end
if latest(KEYS[2], tags) > tonumber(ARGV[2]) then return 0 end
local now, keep, size = milliseconds(), tonumber(ARGV[4]), #ARGV[3] + 600 -- overhead of an entry, by MEMORY USAGE
expire(ARGV[6], KEYS[5], KEYS[4], now)
local room = tonumber(ARGV[5]) - size
for _ = 1, 100 do -- those that expire first are evicted first
  if (tonumber(redis.call('HGET', KEYS[4], '')) or 0) <= room then break end
  local first = redis.call('ZRANGE', KEYS[5], 0, 9)
  if #first == 0 then break end
  redis.call('HINCRBY', KEYS[4], '!', drop(ARGV[6], KEYS[5], KEYS[4], first))
end
if size > tonumber(ARGV[5]) then return 0 end
redis.call('SET', KEYS[1], ARGV[3], 'PX', keep)
redis.call('HINCRBY', KEYS[4], '', size - (tonumber(redis.call('HGET', KEYS[4], ARGV[1])) or 0))
redis.call('HSET', KEYS[4], ARGV[1], size)
for n = 5, #KEYS do
  if n > 5 then redis.call('ZREMRANGEBYSCORE', KEYS[n], '-inf', number(now)) end
  redis.call('ZADD', KEYS[n], number(now + keep), ARGV[1])
  if n > 5 and redis.call('PTTL', KEYS[n]) < keep then redis.call('PEXPIRE', KEYS[n], keep) end
end
return 1
