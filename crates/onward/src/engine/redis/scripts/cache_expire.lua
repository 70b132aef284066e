-- Kills the fills in flight of a key, then ends the freshness of one field, or of all that the key has.
redis.call('DEL', LEASES)
local kept = 0
local names = { field }
if field == '' then
  names = redis.call('HKEYS', FIELDS)
  names[#names + 1] = ''
end
for _, name in ipairs(names) do
  local entry = read(name)
  local found = parse(entry)
  if found and found.lives then
    kept = 1
    local ended = times(math.min(found.ends, now), found.gone)
    if name == '' then
      redis.call('SETRANGE', PLAIN, 25, ended)
    else
      redis.call('HSET', FIELDS, name, string.sub(entry, 1, 25) .. ended .. string.sub(entry, 45))
    end
  end
end
tell()
return kept
