-- Names the fields that are kept.
local kept = {}
for _, name in ipairs(redis.call('HKEYS', FIELDS)) do
  local found = parse(read(name))
  if found and found.lives then kept[#kept + 1] = name end
end
return kept
