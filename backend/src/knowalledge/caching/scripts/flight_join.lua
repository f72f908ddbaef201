-- Take the lease of a flight if nobody holds it.
-- KEYS[1] the lease; ARGV[1] this leader's token, [2] milliseconds. Returns the token of whoever leads.
-- Atomic because two replicas must not both be told to lead.
if redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then return ARGV[1] end
return redis.call('GET', KEYS[1])
