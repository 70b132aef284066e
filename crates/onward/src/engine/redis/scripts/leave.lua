-- Gives up a process's places in queues, and what was handed over to it meanwhile.
-- KEYS: key and queue of each. ARGV: process.
local me = ARGV[1]
for i = 1, #KEYS / 2 do
  local key, queue = KEYS[2 * i - 1], KEYS[2 * i]
  redis.call('LREM', queue, 0, me)
  if begins(redis.pcall('GET', key), 'ow1:' .. me .. ':') and not hand_over(key, queue, 'XX', false) then redis.call('DEL', key) end
end
return 1
