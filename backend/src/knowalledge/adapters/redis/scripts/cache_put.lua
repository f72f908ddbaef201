-- Store an entry unless something it stands for was taken back after it was asked for.
-- KEYS[1] the entry, [2] the generations, [3] the log, [4..] the indexes of its families
-- ARGV[1] name, [2] born, [3] bytes, [4] milliseconds to keep, [5..] tags and bars. Returns 1 if it was stored.
-- Atomic because an invalidation must not fall between the judgement and the writing.
generation(KEYS[2], KEYS[3])
local tags = {}
for n = 5, #ARGV do tags[#tags + 1] = ARGV[n] end
if latest(KEYS[2], tags) > tonumber(ARGV[2]) then return 0 end
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local keep = tonumber(ARGV[4])
redis.call('SET', KEYS[1], ARGV[3], 'PX', keep)
for n = 4, #KEYS do
  redis.call('ZREMRANGEBYSCORE', KEYS[n], '-inf', number(now))
  redis.call('ZADD', KEYS[n], number(now + keep), ARGV[1])
  if redis.call('PTTL', KEYS[n]) < keep then redis.call('PEXPIRE', KEYS[n], keep) end
end
return 1
