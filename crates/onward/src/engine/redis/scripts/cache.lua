-- What every script of the cache begins with.
-- KEYS: epochs, the slot's value or fields, leases, then guards and the fields or value that the slot is not in, where a script needs them.
-- ARGV: namespace, identity of the server, time in ms, field.
-- An empty time is the server's own, as always but in tests (C5). An empty field is the plain value; no user's field is empty.
-- An entry: version 1, epoch 8, nonce 16, end as fresh 11, time as stale 8, payload. A lease: epoch 8, nonce 16, end 11.
-- Times are hexadecimal digits in ms, so that no release of Lua formats them in its own way.
local EPOCHS, SLOT, LEASES, GUARDS, OTHER = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local namespace, identity, field = ARGV[1], ARGV[2], ARGV[4]
local now, slack = tonumber(ARGV[3]), 3600000
if not now then
  local time = redis.call('TIME')
  now, slack = time[1] * 1000 + math.floor(time[2] / 1000), 0
end

-- The epoch, if this server wrote it: one from a snapshot or from another primary may have outlived purges, so nothing of it is live.
local record = redis.pcall('HGET', EPOCHS, namespace)
local epoch = type(record) == 'string' and string.sub(record, 9) == identity and string.sub(record, 1, 8)

-- Purges what others keep of the key, and tells whether they had something: nobody, unless the layout says so.
local function purge_others() return false end
