-- Grant nothing for a while: the provider named a time.
-- ARGV[3] microseconds, [4] the window that the provider named
open() -- first: of a clock that was set back the gate moves along
close_for(tonumber(ARGV[3]), ARGV[4])
close()
return 1
