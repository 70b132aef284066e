-- Reads entries. Scripts whose most common case needs none of this have it behind that case.
local PLAIN, FIELDS = SLOT, OTHER
if field ~= '' then PLAIN, FIELDS = OTHER, SLOT end

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

-- Tells those who keep near copies. Who may not publish still has them bounded by time.
local function tell()
  redis.pcall('PUBLISH', 'on:c1:purged', namespace .. ':' .. string.sub(PLAIN, #EPOCHS + #namespace + 5))
end
