-- Something lies there: what may be in the way of a lease.
local entry = read(field)
if type(entry) == 'table' then return entry end
local found = parse(entry)
-- Of a later release: not ours to replace.
if entry ~= '' and not found then return { 'strange' } end
if found and found.fresh and found.nonce ~= ARGV[7] then
  if field == '' then entry = redis.call('GET', PLAIN) end
  return { 'hit', entry, now }
end
local last = redis.call('ZREVRANGE', GUARDS, 0, 0, 'WITHSCORES')
if last[2] and now < tonumber(last[2]) then return { 'guarded', last[2] - now } end
local lease = redis.call('HGET', LEASES, field)
if lease and string.sub(lease, 1, 8) == epoch then
  local ends = tonumber(string.sub(lease, 25), 16)
  if now < ends then return { 'loading', ends - now } end
end
if redis.call('HLEN', LEASES) > 4096 then
  -- More leases than a key may have fields: only what died may lie there.
  local all = redis.call('HGETALL', LEASES)
  for i = 1, #all, 2 do
    if tonumber(string.sub(all[i + 1], 25), 16) <= now then redis.call('HDEL', LEASES, all[i]) end
  end
  if redis.call('HLEN', LEASES) > 4096 then return { 'full' } end
end
return take(redis.call('PTTL', LEASES))
