-- End reservations of one replica, in order: settle them by the actual cost, or release them. Then dispatch.
--
-- ARGV[3] epoch, [4] replica, and from [5] on for each end: id, actual input, actual output, and the counter that says
--   how it ended: FIELD_SETTLED | FIELD_RELEASED | FIELD_REJECTED (by the provider)
-- Returns how many were live; the others were swept, or had ended before.
-- Atomic because a correction and the end of its hold must be seen together.
if is_other_epoch(ARGV[3]) then return epoch_mismatch() end
local live = prefix .. KEY_LIVE .. ARGV[4]

-- The tenant's counter of granted tokens gets the actual cost in place of the estimate.
local function correct_served(level, tenant, weighted)
  local counters = prefix .. KEY_SERVED .. level
  if not redis.call('ZSCORE', counters, tenant) then counters = prefix .. KEY_IDLE .. level end
  if redis.call('ZSCORE', counters, tenant) then
    redis.call('ZINCRBY', counters, string.format('%.17g', weighted), tenant)
  end
end

local function finish(id, input, output, counter)
  local packed = redis.call('HGET', live, id)
  if not packed then return 0 end
  redis.call('HDEL', live, id)
  local record = cmsgpack.unpack(packed)
  local estimated, held, buckets = record[LIVE_INPUT], record[LIVE_OUTPUT], record[LIVE_BUCKETS]
  local settled = counter == FIELD_SETTLED and 1 or 0
  for n, w in ipairs(windows) do
    local correction = w.input * (input - estimated) + w.requests * (settled - 1)
    add(w, buckets[n], correction)
    w.held = w.held - w.output * held
    add(w, completion_bucket(w), w.output * output)
    adjust_pace_debt(w, correction + w.output * (output - held))
  end
  if counter == FIELD_REJECTED then lower_ceilings(buckets) end
  if settled == 1 then
    record_output(held, output)
    if input ~= estimated then redis.call('HINCRBY', KEYS[1], FIELD_DRIFT_INPUT, input - estimated) end
    if output ~= held then redis.call('HINCRBY', KEYS[1], FIELD_DRIFT_OUTPUT, output - held) end
    local weight = record[LIVE_WEIGHT]
    local weighted = (input + output) / weight - (estimated + held) / weight
    correct_served(record[LIVE_LEVEL], record[LIVE_TENANT], weighted)
  end
  redis.call('HINCRBY', KEYS[1], counter, 1)
  return 1
end

load_windows()
local ended = 0
for at = 5, #ARGV, 4 do
  ended = ended + finish(ARGV[at], tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2]), ARGV[at + 3])
end
if ended > 0 and queue_length() > 0 then dispatch() end
save_windows()
return ended
