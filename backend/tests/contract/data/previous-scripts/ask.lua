-- Quota now, a place in the room, or a refusal: one request asks one target.
-- ARGV[3] id, [4] level, [5] input, [6] output, [7] patience us (0: does not wait), [8] replica, [9] weight,
--   [10] tenant, [11] moment of arrival or 0, for one that asks again after a fault, [12] epoch
-- Returns {what, a, b, c, then per window: used, held, limit}:
--   {0} granted
--   {1, position, eta us, moment of arrival}  waits
--   {2, why, eta us, what refused}            refused; why: quota, deadline, full
-- Atomic because replicas must not see the same room twice, nor a newcomer overtake one who waits.
if forgotten(ARGV[12]) then return FORGOTTEN end
open()
local id, level, input, output = ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local patience, replica, weight, tenant = tonumber(ARGV[7]), ARGV[8], tonumber(ARGV[9]), ARGV[10]
local again = waiter(id)
if again then take(again) end
local busy = waiting()
local arrived = tonumber(ARGV[11])
if arrived == 0 then arrived = now end
if busy == 0 or passes(level) then
  if turn(input, output, level) == 0 then
    local buckets = charge(input, output)
    remember(replica, id, input, output, buckets, level, weight, tenant)
    served_one(level)
    if busy > 0 then redis.call('HINCRBY', KEYS[1], 'sa', 1) end
    close()
    return levels({0, 0, 0, arrived})
  end
end
local function in_turns()
  local ahead, more_input, more_output = before_in_turns(level, tenant)
  return (eta(ahead, more_input, more_output, input, output, level))
end
local ahead, more_input, more_output = before(level)
local wait, worst = eta(ahead, more_input, more_output, input, output, level)
local reply
if patience <= 0 then
  reply = {2, 'quota', wait, worst}
elseif wait > patience and in_turns() > patience then
  reply = {2, 'deadline', wait, worst}
else
  local shed
  if busy >= cfg[1] then shed = newest_below(level) or newest_of_most(level, tenant, weight) end
  if busy >= cfg[1] and not shed then
    reply = {2, 'full', wait, worst}
  else
    if shed then
      take(shed, 'shed')
      tell(shed.replica, 'shed', shed.id)
    end
    put({
      id = id, level = level, input = input, output = output, arrived = arrived, replica = replica, weight = weight,
      tenant = tenant,
    })
    reply = {1, ahead + 1, wait, arrived}
  end
end
if reply[1] == 2 then redis.call('HINCRBY', KEYS[1], 'xd', 1) end
close()
return levels(reply)
