-- Ends leases whose owner matches (C1): each key goes to the next in its queue, or is free, or stays taken by nobody for a while.
-- KEYS: key and queue of each. ARGV: how its lease begins (ow1:OWNER:), how one begins whose owner nobody knows, and time to keep, of each;
-- the first alone for one key that is not kept.
-- Answers a digit for each: 0 not the owner's, 1 ended, 2 handed over. One key for which nobody waits comes first: most are.
local value = redis.pcall('GET', KEYS[1])
local first
if not ARGV[2] and type(value) == 'string' and string.sub(value, 1, 37) == ARGV[1] then
  first = redis.call('LPOP', KEYS[2])
  if not first then
    redis.call('DEL', KEYS[1])
    return '1'
  end
end
