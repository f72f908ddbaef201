-- Grant nothing for a while: the provider named a time.
-- ARGV[3] microseconds, [4] the window that the provider named
close_for(tonumber(ARGV[3]), ARGV[4])
return 1
