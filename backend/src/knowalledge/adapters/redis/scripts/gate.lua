-- Grant nothing for a while: the provider named a time. Only ever moves later.
-- ARGV[3] microseconds, [4] the window that the provider named
local till = now + tonumber(ARGV[3])
if till > (tonumber(redis.call('HGET', KEYS[1], 'g')) or 0) then
  redis.call('HSET', KEYS[1], 'g', whole(till), 'gw', ARGV[4])
end
return 1
