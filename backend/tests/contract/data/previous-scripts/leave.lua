-- Give up a place; the next may fit where this one did not. ARGV[3] id, [4] how it leaves
-- Returns 1, or 0 when there was no such waiter any more: it was granted, shed or swept.
local w = waiter(ARGV[3])
if not w then return 0 end
open()
take(w, ARGV[4])
if waiting() > 0 then dispatch() end
close()
return 1
