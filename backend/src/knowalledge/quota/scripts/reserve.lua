-- Reserve quota, or queue, or refuse: one request at one target.
--
-- ARGV[3] id, [4] level, [5] input, [6] output, [7] patience us (0: does not queue), [8] replica, [9] weight and
--   [10] name of the tenant, [11] moment of arrival of a request that reserves again, or 0, [12] epoch
-- Returns one of these, followed by used, held and limit of each window:
--   {REPLY_GRANTED, 0, 0, moment of arrival}
--   {REPLY_QUEUED, position, eta us, moment of arrival}
--   {REPLY_REFUSED, reason, eta us, number of the window that it waits for, or the name that the gate was closed with}
-- Atomic because replicas must not see the same free quota twice, nor a newcomer overtake a waiter.
if is_other_epoch(ARGV[12]) then return epoch_mismatch() end
load_windows()
local id, level, input, output = ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local patience, replica, weight, tenant = tonumber(ARGV[7]), ARGV[8], tonumber(ARGV[9]), ARGV[10]
local earlier = load_waiter(id)
if earlier then dequeue(earlier) end
local waiting = queue_length()
local arrived = tonumber(ARGV[11])
-- A moment of another store may lie ahead of this one's clock.
if arrived == 0 or arrived > latest then arrived = latest end
if waiting == 0 or may_bypass(level) then
  if wait_after_probe(input, output, level) == 0 then
    save_live(replica, id, input, output, charge(input, output), level, weight, tenant)
    record_grant(level)
    if waiting > 0 then redis.call('HINCRBY', KEYS[1], FIELD_SINCE_AGED, 1) end
    save_windows()
    return with_window_status({REPLY_GRANTED, 0, 0, arrived})
  end
end
local function eta_in_turns()
  local ahead, ahead_input, ahead_output = backlog_in_turns(level, tenant)
  return (eta(ahead, ahead_input, ahead_output, input, output, level))
end
local ahead, ahead_input, ahead_output = backlog(level)
local wait, waits_for = eta(ahead, ahead_input, ahead_output, input, output, level)
local reply
if patience <= 0 then
  reply = {REPLY_REFUSED, REASON_QUOTA, wait, waits_for}
elseif wait > patience and eta_in_turns() > patience then
  reply = {REPLY_REFUSED, REASON_DEADLINE, wait, waits_for}
else
  local full, shed = waiting >= config[CONFIG_CAPACITY], nil
  if full then shed = newest_below(level) or newest_of_largest_tenant(level, tenant, weight) end
  if full and not shed then
    reply = {REPLY_REFUSED, REASON_FULL, wait, waits_for}
  else
    if shed then
      dequeue(shed, OUTCOME_SHED)
      publish(shed.replica, OUTCOME_SHED, shed.id)
    end
    enqueue({
      id = id, level = level, input = input, output = output, arrived = arrived, replica = replica,
      weight = weight, tenant = tenant,
    })
    reply = {REPLY_QUEUED, ahead + 1, wait, arrived}
  end
end
if reply[1] == REPLY_REFUSED then redis.call('HINCRBY', KEYS[1], FIELD_REFUSED, 1) end
save_windows()
return with_window_status(reply)
