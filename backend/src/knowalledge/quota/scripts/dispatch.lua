-- Grant what fits to those who wait, in order.
--
-- Returns {how many were granted, us until the next would fit or 0 if none waits}.
-- Atomic because a grant to a waiter and the charge of its quota are one step.
load_windows()
local granted, wait = dispatch()
save_windows()
return {granted, wait}
