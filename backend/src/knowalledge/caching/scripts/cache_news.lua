-- The invalidations since a generation.
-- KEYS[1] the generations, [2] the log; ARGV[1] the generation that the reader has, [2] most invalidations to return
-- Returns {the generation now, then per invalidation: generation, the previous one, kind, pattern, record key}.
-- Atomic because the generation and the log must be of the same moment.
local reply = {generation(KEYS[1], KEYS[2])}
for _, event in ipairs(redis.call('XRANGE', KEYS[2], '(' .. ARGV[1] .. '-0', '+', 'COUNT', ARGV[2])) do
  local field = event[2]
  reply[#reply + 1] = tonumber(string.match(event[1], '^%d+'))
  reply[#reply + 1] = tonumber(field[2])
  reply[#reply + 1] = field[4]
  reply[#reply + 1] = field[6]
  reply[#reply + 1] = field[8]
end
return reply
