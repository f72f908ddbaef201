-- How much is stored. KEYS[1] the sizes, [2] the index of all; ARGV[1] prefix. Returns {entries, bytes}.
local now = milliseconds()
expire(ARGV[1], KEYS[2], KEYS[1], now)
return {redis.call('ZCOUNT', KEYS[2], number(now), '+inf'), tonumber(redis.call('HGET', KEYS[1], '')) or 0}
