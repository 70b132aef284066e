-- What every script of the cache begins with.
-- KEYS: epochs, plain value, fields, leases, guards. ARGV: namespace, identity of the server, time in ms, field.
-- An empty time is the server's own, as always but in tests (C5). An empty field is the plain value; no user's field is empty.
-- An entry: version 1, epoch 8, nonce 16, end as fresh 11, time as stale 8, payload. A lease: epoch 8, nonce 16, end 11.
-- Times are hexadecimal digits in ms, so that no release of Lua formats them in its own way.
local EPOCHS, PLAIN, FIELDS, LEASES, GUARDS = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local namespace, identity, field = ARGV[1], ARGV[2], ARGV[4]
local now, slack = tonumber(ARGV[3]), 3600000
if not now then
  local time = redis.call('TIME')
  now, slack = time[1] * 1000 + math.floor(time[2] / 1000), 0
end

-- The epoch, if this server wrote it: one from a snapshot or from another primary may have outlived purges, so nothing of it is live.
local record = redis.pcall('HGET', EPOCHS, namespace)
local epoch = type(record) == 'string' and string.sub(record, 9) == identity and string.sub(record, 1, 8)

local function parse(entry)
  if type(entry) ~= 'string' or #entry < 44 or string.byte(entry) ~= 1 then return nil end
  local found = { nonce = string.sub(entry, 10, 25), ends = tonumber(string.sub(entry, 26, 36), 16) }
  found.gone = found.ends + tonumber(string.sub(entry, 37, 44), 16)
  found.lives = string.sub(entry, 2, 9) == epoch and now < found.gone
  found.fresh = found.lives and now < found.ends
  return found
end

-- The head of the plain value, or one field whole.
local function read(name)
  if name == '' then return redis.pcall('GETRANGE', PLAIN, 0, 43) end
  return redis.pcall('HGET', FIELDS, name) or ''
end

local function times(ends, gone)
  return string.format('%011x%08x', ends, gone - ends)
end

-- Lets a key live for so long at least.
local function lengthen(key, time)
  if redis.call('PTTL', key) < time + slack then redis.call('PEXPIRE', key, time + slack) end
end

-- Purges what others keep of the key, and tells whether they had something: nobody, unless the layout says so.
local function purge_others() return false end

-- Tells those who keep near copies. Who may not publish still has them bounded by time.
local function tell()
  redis.pcall('PUBLISH', 'on:c1:purged', namespace .. ':' .. string.sub(PLAIN, #EPOCHS + #namespace + 5))
end
