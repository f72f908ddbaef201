-- Give up a place; the next waiter may fit where this one did not.
--
-- ARGV[3] id, [4] outcome
-- Returns 1, or 0 when the request waits no more: it was granted, shed or swept.
-- Atomic because a place and its counters go together, and what fits now must not be granted twice.
load_windows()
local waiter = load_waiter(ARGV[3])
if not waiter then
  save_windows()
  return 0
end
dequeue(waiter, ARGV[4])
if queue_length() > 0 then dispatch() end
save_windows()
return 1
