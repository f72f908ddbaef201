-- Count requests with exponential decay; return the popular names.
-- KEYS[1] a sorted set: name -> log2 of its decayed count, referred to time 0: an idle count needs no update
-- ARGV[1] half-life in seconds, [2] threshold, [3] most names to keep, [4..] name, count, ...
-- Returns the names whose count reaches the threshold, the most popular first.
-- Atomic because the counts of two replicas must add up.
local function number(n) return string.format('%.17g', n) end
local function log2(n) return math.log(n) / math.log(2) end
local time = redis.call('TIME')
local now = (tonumber(time[1]) + tonumber(time[2]) / 1000000) / tonumber(ARGV[1])
for n = 4, #ARGV, 2 do
  local score = redis.call('ZSCORE', KEYS[1], ARGV[n])
  local before = score and 2 ^ (tonumber(score) - now) or 0
  redis.call('ZADD', KEYS[1], number(now + log2(before + tonumber(ARGV[n + 1]))), ARGV[n])
end
redis.call('ZREMRANGEBYRANK', KEYS[1], 0, -1 - tonumber(ARGV[3]))
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', number(now + log2(0.1)))
return redis.call('ZREVRANGEBYSCORE', KEYS[1], '+inf', number(now + log2(tonumber(ARGV[2])) - 1e-6), 'LIMIT', 0, 200)
