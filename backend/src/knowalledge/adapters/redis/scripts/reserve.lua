-- Charge every window of a target for one request, or none.
-- KEYS[1..2] the ledger; KEYS[3] hash of this replica's live reservations, id -> held output
-- ARGV[1] moment or '', [2] id, [3] input, [4] output, [5..] windows
-- Returns {granted 0|1, wait us, what refused, then per window: bucket, used, held}; what refused is the index of a
-- window, or the name that the gate was closed with.
-- Atomic because replicas must not see the same room twice.
local now = moment(ARGV[1])
local input, output = tonumber(ARGV[3]), tonumber(ARGV[4])
local windows, gate, gate_window = read_windows(5)
local gated = now < gate
local wait, worst = 0, 0
if gated then wait, worst = gate - now, gate_window end
for n, w in ipairs(windows) do
  w.bucket = advance(w, now)
  local need = w.req + w.inp * input + w.out * output
  if not gated and w.total + w.held + need > w.limit then
    local room = room_in(w, now, need)
    if room > wait then wait, worst = room, n end
  end
end
local granted = worst == 0 and 1 or 0
if granted == 1 then
  for _, w in ipairs(windows) do
    add(w, w.bucket, w.req + w.inp * input)
    w.held = w.held + w.out * output
  end
  redis.call('HSET', KEYS[3], ARGV[2], ARGV[4])
end
save(windows)
local reply = {granted, wait, worst}
for _, w in ipairs(windows) do
  reply[#reply + 1] = w.bucket
  reply[#reply + 1] = w.total + w.held
  reply[#reply + 1] = w.held
end
return reply
