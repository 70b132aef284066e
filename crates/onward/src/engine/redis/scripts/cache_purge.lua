-- Kills the fills in flight of a key, then removes; every way to invalidate ends here. A purge is a delete: nothing stays behind.
-- ARGV: act (invalidate, guard, release), owner, for how long to guard, for how long to hold fills off.
local act, owner, guard, hold_off = ARGV[5], ARGV[6], tonumber(ARGV[7]), tonumber(ARGV[8])
local stood = 0
if act == 'guard' then
  redis.call('ZREMRANGEBYSCORE', GUARDS, '-inf', now)
  if redis.call('ZCARD', GUARDS) >= 64 and not redis.call('ZSCORE', GUARDS, owner) then return { 'full' } end
end
-- What can't be read is removed all the same.
local seen
if field ~= '' then
  seen = parse(read(field))
  local removed = redis.pcall('HDEL', FIELDS, field)
  if type(removed) == 'table' then redis.call('DEL', FIELDS) end
  redis.call('DEL', LEASES)
else
  seen = parse(read(''))
  if not (seen and seen.lives) then
    local names = redis.pcall('HKEYS', FIELDS)
    for _, name in ipairs(names) do
      seen = parse(read(name))
      if seen and seen.lives then break end
    end
  end
  redis.call('DEL', PLAIN, FIELDS, LEASES)
end
if act == 'release' then
  local ends = redis.call('ZSCORE', GUARDS, owner)
  if ends and now < tonumber(ends) then stood = 1 end
  redis.call('ZREM', GUARDS, owner)
elseif act == 'guard' then
  redis.call('ZADD', GUARDS, 'GT', now + guard, owner)
  lengthen(GUARDS, guard)
end
-- An invalidation is not turned away by the guards of others.
if hold_off > 0 then
  redis.call('ZADD', GUARDS, 'GT', now + hold_off, string.rep('\0', 16))
  lengthen(GUARDS, hold_off)
end
local had = purge_others(hold_off) or seen and seen.lives
tell()
return { 'done', had and 1 or 0, stood }
