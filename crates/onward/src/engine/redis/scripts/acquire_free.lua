-- Takes a key if it is free (C1), or joins its queue.
-- KEYS: key, counter, queue. ARGV: owner, holder, ttl, process, place (0: none, 1: new, 2: perhaps there), claim, queue's ttl.
-- Answers the token, if nobody has the key or waits for it: most ask no more, so this comes before all else. Or as the rest says.
local key, fence, queue = KEYS[1], KEYS[2], KEYS[3]
-- An error, a table, is another type than a string: foreign.
local value = redis.pcall('GET', key)
-- A removal comes before what is written: a server that is full lets a script go on after it.
local first = not value and redis.call('LPOP', queue)
if not value and not first then
  local token, now = draw(fence)
  redis.call('SET', key, 'ow1:' .. ARGV[1] .. ':' .. token .. ':' .. now .. ':' .. ARGV[2], 'PX', ARGV[3])
  return token
end
