-- Gives up a process's places in queues, and what was handed over to it meanwhile.
-- KEYS: counter, then key and queue of each. ARGV: claim, process.
local fence, claim, me = KEYS[1], ARGV[1], ARGV[2]
for i = 1, (#KEYS - 1) / 2 do
  local key, queue = KEYS[2 * i], KEYS[2 * i + 1]
  redis.call('LREM', queue, 0, me)
  if is_of(redis.pcall('GET', key), me) and not hand_over(key, fence, queue, claim, 'XX', false) then redis.call('DEL', key) end
end
return 1
