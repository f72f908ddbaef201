-- End a reservation: settle it by the truth, or release it as if it had never been.
-- KEYS as in reserve
-- ARGV[1] moment or '', [2] id, [3] estimated input, [4] held output, [5] true input, [6] true output,
--   [7] 1 settle | 0 release, [8] number of windows, then one grant bucket each, then the windows
-- Returns 1, or 0 when the reservation was not live any more: it was swept, or is ended twice.
-- Atomic because a correction and the end of its hold must be seen together.
if redis.call('HDEL', KEYS[3], ARGV[2]) == 0 then return 0 end
local now = moment(ARGV[1])
local est, held, input, output = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local settled, count = tonumber(ARGV[7]), tonumber(ARGV[8])
local windows = read_windows(9 + count)
for n, w in ipairs(windows) do
  local current = advance(w, now)
  add(w, tonumber(ARGV[8 + n]), w.inp * (input - est) + w.req * (settled - 1))
  w.held = w.held - w.out * held
  add(w, current, w.out * output)
end
save(windows)
return 1
