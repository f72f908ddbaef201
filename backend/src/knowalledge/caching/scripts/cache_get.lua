-- Read an entry, and whether it may still be served.
-- KEYS[1] the entry, [2] the generations, [3] the log; ARGV its tags
-- Returns {the generation now, the newest at which one of the tags was invalidated, the entry or nil}.
-- Atomic because an entry must be checked against the generations of the same moment.
local seq = generation(KEYS[2], KEYS[3])
return {seq, latest(KEYS[2], ARGV), redis.call('GET', KEYS[1])}
