-- The events of a leader's stream after an id.
-- KEYS[1] the lease, [2] the leader's stream; ARGV[1] the leader's token, [2] the last id that was read
-- Returns {1 while the leader holds its lease, then per event: id, kind, bytes}.
local reply = {redis.call('GET', KEYS[1]) == ARGV[1] and 1 or 0}
for _, event in ipairs(redis.call('XRANGE', KEYS[2], '(' .. ARGV[2], '+', 'COUNT', 200)) do
  reply[#reply + 1] = event[1]
  reply[#reply + 1] = event[2][2]
  reply[#reply + 1] = event[2][4]
end
return reply
