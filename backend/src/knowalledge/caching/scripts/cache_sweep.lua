-- Free the memory of invalidated entries, one batch a call.
-- KEYS[1] the index of the tag, [2] the sizes, [3] the index of all
-- ARGV[1] glob or '', [2] cursor, [3] batch size, [4] prefix, [5] the pattern, which may be an entry's name
-- Returns {entries removed, the next cursor; 0 when done}.
local names, cursor = {}, 0
if ARGV[1] == '' then
  names = redis.call('ZRANGE', KEYS[1], 0, tonumber(ARGV[3]) - 1)
  if #names == tonumber(ARGV[3]) then cursor = 1 end
  names[#names + 1] = ARGV[5]
else
  local page = redis.call('ZSCAN', KEYS[1], ARGV[2], 'MATCH', ARGV[1], 'COUNT', ARGV[3])
  cursor = tonumber(page[1])
  for n = 1, #page[2], 2 do names[#names + 1] = page[2][n] end
end
local removed = drop(ARGV[4], KEYS[3], KEYS[2], names)
if #names > 0 then redis.call('ZREM', KEYS[1], unpack(names)) end
return {removed, tostring(cursor)}
