-- Grant nothing for a while: the provider named a time.
--
-- ARGV[3] microseconds, [4] the window that the provider named, or ''
-- Returns 1.
-- Atomic because two replicas may close the gate in one moment, and the later end stands.
load_windows() -- first: if the clock was set back, the gate moves along
close_gate(tonumber(ARGV[3]), ARGV[4])
save_windows()
return 1
