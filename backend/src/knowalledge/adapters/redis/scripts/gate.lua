-- Grant nothing for a while: the provider named a time. Only ever moves later.
-- KEYS[1] the ledger's hash; ARGV[1] moment or '', [2] microseconds, [3] the window the provider named
local till = moment(ARGV[1]) + tonumber(ARGV[2])
if till > (tonumber(redis.call('HGET', KEYS[1], 'g')) or 0) then
  redis.call('HSET', KEYS[1], 'g', string.format('%.0f', till), 'gw', ARGV[3])
end
return 1
