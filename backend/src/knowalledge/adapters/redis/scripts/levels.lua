-- Every window as it stands. KEYS[1..2] the ledger; ARGV[1] moment or '', [2..] windows
-- Returns per window: used, held.
local now = moment(ARGV[1])
local windows = read_windows(2)
local reply = {}
for _, w in ipairs(windows) do
  advance(w, now)
  reply[#reply + 1] = w.total + w.held
  reply[#reply + 1] = w.held
end
save(windows)
return reply
