-- How much is stored. KEYS[1] the sizes, [2] the index of all; ARGV[1] prefix. Returns {entries, bytes, evictions}.
local now = milliseconds()
expire(ARGV[1], KEYS[2], KEYS[1], now)
local sum, gone = unpack(redis.call('HMGET', KEYS[1], '', '!'))
return {redis.call('ZCOUNT', KEYS[2], number(now), '+inf'), tonumber(sum) or 0, tonumber(gone) or 0}
