-- Where requests stand in the queue.
--
-- ARGV[3..] ids
-- Returns {eta us of the first, how many wait, eta us of the last, then the position of each id, 0 if it does not wait}.
-- Atomic because positions and times belong to one state.
load_windows()
local sizes = level_sizes()
local first_eta, last_eta = 0, 0
local waiting, input, output = backlog(LOWEST_LEVEL)
if waiting > 0 then
  local top = 0
  while sizes[top] == 0 do top = top + 1 end
  local first = load_waiter(next_aged(top, sizes) or next_in_level(top))
  first_eta = eta(0, 0, 0, first.input, first.output, first.level)
  local bottom = LOWEST_LEVEL
  while sizes[bottom] == 0 do bottom = bottom - 1 end
  last_eta = eta(waiting - 1, input, output, 0, 0, bottom)
end
local reply = {first_eta, waiting, last_eta}
for i = 3, #ARGV do
  local waiter = load_waiter(ARGV[i])
  local position = 0
  if waiter then
    position = 1 + redis.call('ZRANK', prefix .. KEY_ARRIVALS .. waiter.level, waiter.id)
    for other = 0, waiter.level - 1 do position = position + sizes[other] end
  end
  reply[#reply + 1] = position
end
save_windows()
return reply
