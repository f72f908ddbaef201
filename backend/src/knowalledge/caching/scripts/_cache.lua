-- The generations of the cache: a sorted set of tags, scored by the generation at which each was last invalidated.
-- Two members are no tags: '>' is the newest generation; '<' is the floor, below which every entry is invalid.
-- A set that was lost (a server without its data) restarts at the time in microseconds. That is above every generation
-- that existed before, so no entry that survived elsewhere counts as valid.
local function number(n) return string.format('%.0f', n) end

local function generation(gens, log)
  local seq = redis.call('ZSCORE', gens, '>')
  if seq then return tonumber(seq) end
  local time = redis.call('TIME')
  seq = tonumber(time[1]) * 1000000 + tonumber(time[2])
  local last = redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)[1]
  if last then seq = math.max(seq, tonumber(string.match(last[1], '^%d+')) + 1) end
  redis.call('ZADD', gens, number(seq), '>', number(seq), '<')
  return seq
end

local function latest(gens, tags)
  local newest = 0
  for _, score in ipairs(redis.call('ZMSCORE', gens, '<', unpack(tags))) do
    if score then newest = math.max(newest, tonumber(score)) end
  end
  return newest
end

-- Every entry is in the index of all, scored by its expiry, and in a hash of sizes. In that hash the field '' is the sum
-- of the sizes, and '!' the number of evictions.
local function milliseconds()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

-- Remove entries; returns how many of them had not expired.
local function drop(prefix, all, sizes, names)
  local removed, freed = 0, 0
  for _, name in ipairs(names) do
    removed = removed + redis.call('UNLINK', prefix .. name)
    freed = freed + (tonumber(redis.call('HGET', sizes, name)) or 0)
    redis.call('HDEL', sizes, name)
    redis.call('ZREM', all, name)
  end
  if freed > 0 then redis.call('HINCRBY', sizes, '', -freed) end
  return removed
end

local function expire(prefix, all, sizes, now)
  drop(prefix, all, sizes, redis.call('ZRANGEBYSCORE', all, '-inf', number(now), 'LIMIT', 0, 200))
end
