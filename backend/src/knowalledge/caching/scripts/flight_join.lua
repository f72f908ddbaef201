-- Take the lease of a flight if it is free.
-- KEYS[1] the lease; ARGV[1] this leader's token, [2] milliseconds. Returns the leader's token.
-- Atomic because two replicas must not both lead.
if redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then return ARGV[1] end
return redis.call('GET', KEYS[1])
