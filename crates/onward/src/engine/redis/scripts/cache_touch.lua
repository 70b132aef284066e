-- Gives a fresh entry a new time as fresh; never brings back what is gone or stale.
-- ARGV: ttl.
local entry = read(field)
local found = parse(entry)
if not (found and found.fresh) then return 0 end
local ends = now + ARGV[5]
local gone = ends + found.gone - found.ends
if field == '' then
  redis.call('SETRANGE', PLAIN, 25, times(ends, gone))
  redis.call('PEXPIRE', PLAIN, gone - now + slack)
else
  redis.call('HSET', FIELDS, field, string.sub(entry, 1, 25) .. times(ends, gone) .. string.sub(entry, 45))
  lengthen(FIELDS, gone - now)
end
return 1
