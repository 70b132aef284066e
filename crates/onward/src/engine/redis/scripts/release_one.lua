-- Ends leases that begin as is said (C1): each key goes to the next in its queue, or is free, or stays taken by nobody for a while.
-- KEYS: the keys. ARGV for one key that is not kept: how its lease begins (ow1:OWNER:, or more), and what the asker knows of the clock, if
-- others wait. Else three for each key: how its lease begins, how one begins whose owner nobody knows, and time to keep.
-- Answers a digit for each: 0 not the owner's, 1 ended, 2 handed over. One key for which nobody waits comes first: most are.
local value = redis.pcall('GET', KEYS[1])
local first
if not ARGV[3] and type(value) == 'string' and string.sub(value, 1, #ARGV[1]) == ARGV[1] then
  first = redis.call('LPOP', 'onward:q:' .. KEYS[1])
  if not first then
    redis.call('DEL', KEYS[1])
    return '1'
  end
end
