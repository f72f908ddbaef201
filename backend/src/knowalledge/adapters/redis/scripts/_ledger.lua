-- The ledger of one target, as domain/quota.py has it; prepended to every quota script.
--
-- State, all under one hash tag, constant in size:
--   KEYS[1]  hash    per window i: t<i> charged, h<i> held, l<i> newest bucket; g gate (us), gw its window
--   KEYS[2]  string  the rings of all windows, one after the other, eight bytes a bucket
-- Moments are whole microseconds of Redis' own clock; a test may pass its own as ARGV[1].

local function moment(given)
  if given ~= '' then return tonumber(given) end
  local t = redis.call('TIME')
  return tonumber(t[1]) * 1000000 + tonumber(t[2])
end

-- Windows come flat, nine numbers each, from ARGV[first]:
--   limit, bucket width (us), buckets, offset in the string, counts requests, counts input, counts output,
--   day (0: rolling), day's end (us)
local function read_windows(first)
  local windows, fields = {}, {}
  for i = first, #ARGV, 9 do
    local w = {
      limit = tonumber(ARGV[i]), width = tonumber(ARGV[i + 1]), size = tonumber(ARGV[i + 2]),
      offset = tonumber(ARGV[i + 3]), req = tonumber(ARGV[i + 4]), inp = tonumber(ARGV[i + 5]),
      out = tonumber(ARGV[i + 6]), day = tonumber(ARGV[i + 7]), ends = tonumber(ARGV[i + 8]),
    }
    local n = #windows + 1
    windows[n] = w
    fields[#fields + 1] = 't' .. n
    fields[#fields + 1] = 'h' .. n
    fields[#fields + 1] = 'l' .. n
  end
  fields[#fields + 1] = 'g'
  fields[#fields + 1] = 'gw'
  local got = redis.call('HMGET', KEYS[1], unpack(fields))
  for n, w in ipairs(windows) do
    w.total = tonumber(got[3 * n - 2]) or 0
    w.held = tonumber(got[3 * n - 1]) or 0
    w.last = tonumber(got[3 * n]) or 0
  end
  return windows, tonumber(got[#fields - 1]) or 0, got[#fields] or ''
end

local function save(windows)
  local values = {}
  for n, w in ipairs(windows) do
    values[#values + 1] = 't' .. n
    values[#values + 1] = string.format('%.0f', w.total)
    values[#values + 1] = 'h' .. n
    values[#values + 1] = string.format('%.0f', w.held)
    values[#values + 1] = 'l' .. n
    values[#values + 1] = string.format('%.0f', w.last)
  end
  redis.call('HSET', KEYS[1], unpack(values))
end

local function zeros(buckets)
  return string.rep('\0', buckets * 8)
end

-- Sum and clear the buckets from..to, places in the ring that do not wrap.
local function drain(w, from, to)
  local at = w.offset + from * 8
  local slice = redis.call('GETRANGE', KEYS[2], at, w.offset + to * 8 + 7)
  local empty = zeros(to - from + 1)
  if slice == '' or slice == empty then return 0 end
  slice = slice .. string.sub(empty, #slice + 1)
  local sum = 0
  for place = 0, to - from do
    sum = sum + struct.unpack('<d', slice, place * 8 + 1)
  end
  redis.call('SETRANGE', KEYS[2], at, empty)
  return sum
end

local function advance(w, now)
  if w.day > 0 then
    -- The caller's calendar may be a moment behind Redis' clock.
    if now >= w.ends then w.day, w.ends = w.day + 1, w.ends + 86400000000 end
    if w.day > w.last then w.last, w.total = w.day, 0 end
    return w.last
  end
  local index = math.floor(now / w.width)
  local gone = index - w.last
  if gone <= 0 then return w.last end
  if gone >= w.size then
    if w.total ~= 0 then redis.call('SETRANGE', KEYS[2], w.offset, zeros(w.size)) end
    w.total = 0
  else
    local from, to = (w.last + 1) % w.size, index % w.size
    if from <= to then
      w.total = w.total - drain(w, from, to)
    else
      w.total = w.total - drain(w, from, w.size - 1) - drain(w, 0, to)
    end
  end
  w.last = index
  return index
end

local function add(w, bucket, amount)
  if amount == 0 then return end
  if w.day > 0 then
    if bucket == w.last then w.total = w.total + amount end
    return
  end
  if w.last - bucket >= w.size then return end
  local at = w.offset + (bucket % w.size) * 8
  local was = redis.call('GETRANGE', KEYS[2], at, at + 7)
  local old = #was == 8 and struct.unpack('<d', was) or 0
  redis.call('SETRANGE', KEYS[2], at, struct.pack('<d', old + amount))
  w.total = w.total + amount
end

-- Microseconds until `amount` more fits, if nothing else is granted and every hold comes true.
local function room_in(w, now, amount)
  local short = w.total + w.held + amount - w.limit
  if short <= 0 then return 0 end
  if w.day > 0 then return w.ends - now end
  local ring = redis.call('GETRANGE', KEYS[2], w.offset, w.offset + w.size * 8 - 1)
  ring = ring .. string.sub(zeros(w.size), #ring + 1)
  for age = w.size - 1, 0, -1 do
    local bucket = w.last - age
    short = short - struct.unpack('<d', ring, (bucket % w.size) * 8 + 1)
    if short <= 0 then return math.max(1, (bucket + w.size) * w.width - now) end
  end
  return w.width * (w.size - 1)
end
