-- Counts what one key has: entries, their bytes, leases, guards.
local entries, bytes, leases = 0, 0, 0
local function add(name, length)
  local found = parse(read(name))
  if found and found.lives then entries, bytes = entries + 1, bytes + length + #PLAIN + #name end
end
add('', redis.call('STRLEN', PLAIN))
for _, name in ipairs(redis.call('HKEYS', FIELDS)) do add(name, redis.call('HSTRLEN', FIELDS, name)) end
for _, lease in ipairs(redis.call('HVALS', LEASES)) do
  if string.sub(lease, 1, 8) == epoch and now < tonumber(string.sub(lease, 25), 16) then leases = leases + 1 end
end
local guarded = redis.call('ZCOUNT', GUARDS, '(' .. now, '+inf') > 0 and 1 or 0
return { entries, bytes, leases, guarded }
