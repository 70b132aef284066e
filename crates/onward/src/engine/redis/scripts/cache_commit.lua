-- The lease does not stand, or a field is to be stored.
if not stands then
  local found = parse(read(field))
  if found and found.fresh then return found.nonce == nonce and 'stored' or 'replaced' end
  local mine = lease and string.sub(lease, 9, 24) == nonce
  return mine and string.sub(lease, 1, 8) ~= epoch and 'flushed' or 'absent'
end
if redis.call('HLEN', FIELDS) >= 4096 and redis.call('HEXISTS', FIELDS, field) == 0 then
  for _, name in ipairs(redis.call('HKEYS', FIELDS)) do
    local found = parse(read(name))
    if not (found and found.lives) then redis.call('HDEL', FIELDS, name) end
  end
  if redis.call('HLEN', FIELDS) >= 4096 then return 'full' end
end
redis.call('HSET', FIELDS, field, entry)
lengthen(FIELDS, ARGV[6] + ARGV[7])
redis.call('HDEL', LEASES, field)
return 'stored'
