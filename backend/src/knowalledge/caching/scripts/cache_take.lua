-- Invalidate a tag, or record the barrier of a glob: from now on nothing older is served or stored.
-- KEYS[1] the generations, [2] the log
-- ARGV[1] tag or glob, [2] the pattern, [3] the name to record it under, [4] by whom, [5] most records, [6] log length
-- Returns the new generation. The cost does not depend on the number of entries.
-- Atomic because two invalidations must not get the same generation.
local before = generation(KEYS[1], KEYS[2])
local seq = before + 1
redis.call('ZADD', KEYS[1], number(seq), '>', number(seq), ARGV[3])
local most = tonumber(ARGV[5])
if redis.call('ZCARD', KEYS[1]) > most then
  local half = math.floor(most / 2)
  local floor = redis.call('ZRANGE', KEYS[1], half - 1, half - 1, 'WITHSCORES')[2]
  redis.call('ZREMRANGEBYRANK', KEYS[1], 0, half - 1)
  redis.call('ZADD', KEYS[1], floor, '<')
end
redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[6], number(seq) .. '-0',
  'prev', number(before), 'kind', ARGV[1], 'what', ARGV[2], 'mark', ARGV[3], 'by', ARGV[4])
return seq
