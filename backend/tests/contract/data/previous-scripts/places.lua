-- Where waiters stand. ARGV[3..] ids
-- Returns {us until the head's turn, position of the last in the room, us until its turn, then each id's position or 0}.
open()
local n = sizes()
local head, last = 0, 0
local ahead, input, output = before(3)
if ahead > 0 then
  local top = 0
  while n[top] == 0 do top = top + 1 end
  local w = waiter(due(top, n) or next_of(top))
  head = eta(0, 0, 0, w.input, w.output, w.level)
  local bottom = 3
  while n[bottom] == 0 do bottom = bottom - 1 end
  last = eta(ahead - 1, input, output, 0, 0, bottom)
end
local reply = {head, ahead, last}
for i = 3, #ARGV do
  local w = waiter(ARGV[i])
  local position = 0
  if w then
    position = 1 + redis.call('ZRANK', P .. 'line:' .. w.level, w.id)
    for other = 0, w.level - 1 do position = position + n[other] end
  end
  reply[#reply + 1] = position
end
close()
return reply
