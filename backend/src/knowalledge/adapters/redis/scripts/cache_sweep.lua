-- Free the memory of entries that were taken back, a portion at a time.
-- KEYS[1] the index of the family, [2] a prefix of entries; ARGV[1] glob or '', [2] cursor or rank, [3] portion
-- Returns {entries removed, the next cursor; 0 when done}.
local removed, names, cursor = 0, {}, 0
if ARGV[1] == '' then
  names = redis.call('ZRANGE', KEYS[1], 0, tonumber(ARGV[3]) - 1)
  if #names == tonumber(ARGV[3]) then cursor = 1 end
else
  local page = redis.call('ZSCAN', KEYS[1], ARGV[2], 'MATCH', ARGV[1], 'COUNT', ARGV[3])
  cursor = tonumber(page[1])
  for n = 1, #page[2], 2 do names[#names + 1] = page[2][n] end
end
for _, name in ipairs(names) do removed = removed + redis.call('UNLINK', KEYS[2] .. name) end
if #names > 0 then redis.call('ZREM', KEYS[1], unpack(names)) end
return {removed, tostring(cursor)}
