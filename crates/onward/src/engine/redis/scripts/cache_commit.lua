-- Stores an entry if the lease of this nonce still stands: absent or different is refused (INV-2).
-- ARGV: nonce, ttl, time as stale, payload.
local nonce = ARGV[5]
local lease = redis.call('HGET', LEASES, field)
local mine = lease and string.sub(lease, 9, 24) == nonce
local dated = mine and string.sub(lease, 1, 8) == epoch
if not dated or now >= tonumber(string.sub(lease, 25), 16) then
  local found = parse(read(field))
  if found and found.fresh then return found.nonce == nonce and 'stored' or 'replaced' end
  return mine and not dated and 'flushed' or 'absent'
end
local ends = now + ARGV[6]
local gone = ends + ARGV[7]
local entry = '\1' .. epoch .. nonce .. times(ends, gone) .. ARGV[8]
if field == '' then
  redis.call('SET', PLAIN, entry, 'PX', gone - now + slack)
else
  if redis.call('HLEN', FIELDS) >= 4096 and redis.call('HEXISTS', FIELDS, field) == 0 then
    for _, name in ipairs(redis.call('HKEYS', FIELDS)) do
      local found = parse(read(name))
      if not (found and found.lives) then redis.call('HDEL', FIELDS, name) end
    end
    if redis.call('HLEN', FIELDS) >= 4096 then return 'full' end
  end
  redis.call('HSET', FIELDS, field, entry)
  lengthen(FIELDS, gone - now)
end
redis.call('HDEL', LEASES, field)
return 'stored'
