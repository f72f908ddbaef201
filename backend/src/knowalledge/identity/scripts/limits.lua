-- Count one client over its windows: what a replica has counted alone, and one request more if every window has room.
-- Atomic, so that replicas that ask at the same moment do not share the last place.
-- KEYS: for each window the key of its count, then that of the window before.
-- ARGV[1] 1: a request wants a place, 0: only report. Then for each window: [2] limit, [3] seconds that its key lives,
-- [4] count to add, [5] weight of the window before, from 1 at the beginning to 0 at the end.
-- Returns 1 if the request has its place, else 0; then for each window its count and that of the one before.
local reply, room = {0}, ARGV[1] == '1'
for i = 1, #KEYS / 2 do
  local at = 4 * i - 2
  local add = tonumber(ARGV[at + 2])
  local now
  if add > 0 then
    now = redis.call('INCRBY', KEYS[2 * i - 1], add)
    redis.call('EXPIRE', KEYS[2 * i - 1], ARGV[at + 1])
  else
    now = tonumber(redis.call('GET', KEYS[2 * i - 1])) or 0
  end
  local before = tonumber(redis.call('GET', KEYS[2 * i])) or 0
  if now + before * tonumber(ARGV[at + 3]) + 1 > tonumber(ARGV[at]) then room = false end
  reply[2 * i], reply[2 * i + 1] = now, before
end
if room then
  reply[1] = 1
  for i = 1, #KEYS / 2 do
    reply[2 * i] = redis.call('INCRBY', KEYS[2 * i - 1], 1)
    redis.call('EXPIRE', KEYS[2 * i - 1], ARGV[4 * i - 1])
  end
end
return reply
