-- Append to the leader's stream: a piece, a renewal of its lease, or the end.
-- KEYS[1] the lease, [2] the leader's stream
-- ARGV[1] token, [2] milliseconds of the lease, [3] of the stream, [4] kind: piece, alive, end, failed, left, [5] bytes
-- Returns 1 while the lease is the leader's own.
-- Atomic because the end must be in the stream before the lease is free.
if ARGV[4] ~= 'alive' and ARGV[4] ~= 'left' then
  redis.call('XADD', KEYS[2], '*', 'kind', ARGV[4], 'data', ARGV[5])
  redis.call('PEXPIRE', KEYS[2], ARGV[3])
end
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if ARGV[4] == 'piece' or ARGV[4] == 'alive' then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
else
  redis.call('DEL', KEYS[1])
end
return 1
