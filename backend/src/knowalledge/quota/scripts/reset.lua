-- Remove a state that cannot be trusted: a script ended in the middle, because a key is of another type or a command is
-- forbidden. Every replica then joins a new state and brings what it has spent, as if Redis had lost its data.
--
-- ARGV[3] the epoch of that state, [4] the replica that removes it
-- Returns 1, or 0 if there is another state by now.
-- Atomic because replicas that meet the error together must not remove the new state of the first.
local epoch = redis.pcall('HGET', KEYS[1], FIELD_EPOCH)
local readable = type(epoch) ~= 'table'
if readable and (epoch or '') ~= ARGV[3] then return 0 end

-- What a key has; nothing if it is of another type.
local function members(...)
  local reply = redis.pcall(...)
  return reply.err and {} or reply
end

local keys, tenants = {KEYS[1], KEYS[2], prefix .. KEY_REPLICAS, prefix .. KEY_WAITERS, prefix .. KEY_LIVE .. ARGV[4]}, {}
for _, replica in ipairs(members('ZRANGE', prefix .. KEY_REPLICAS, 0, -1)) do
  keys[#keys + 1] = prefix .. KEY_LIVE .. replica
end
for _, packed in ipairs(members('HVALS', prefix .. KEY_WAITERS)) do
  tenants[cmsgpack.unpack(packed)[WAITER_TENANT]] = true
end
for level = 0, LOWEST_LEVEL do
  local served = prefix .. KEY_SERVED .. level
  for _, tenant in ipairs(members('ZRANGE', served, 0, -1)) do tenants[tenant] = true end
  for tenant in pairs(tenants) do keys[#keys + 1] = prefix .. KEY_ARRIVALS .. level .. ':' .. tenant end
  for _, name in ipairs({KEY_ARRIVALS, KEY_SERVED, KEY_PLACES, KEY_IDLE, KEY_LEFT}) do
    keys[#keys + 1] = prefix .. name .. level
  end
end
for _, key in ipairs(keys) do redis.call('DEL', key) end
return 1
