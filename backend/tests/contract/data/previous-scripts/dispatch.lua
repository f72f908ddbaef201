-- Grant what fits to those who wait, in order.
-- Returns {how many were granted, us until the next would fit or 0 if nobody waits}.
-- Atomic because a grant to a waiter and the charge of its quota are one step.
open()
local granted, wait = dispatch()
close()
return {granted, wait}
