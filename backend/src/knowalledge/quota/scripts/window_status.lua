-- Every window as it stands.
--
-- Returns for each window: used, held, limit.
-- Atomic because what has left the windows is dropped and counted in one step.
load_windows()
save_windows()
return with_window_status({})
