-- Takes a key if it is free (C1), or joins its queue.
-- KEYS: key. ARGV: how its lease begins (ow1:OWNER:), holder, ttl, what the asker knows of the clock or nothing, and of who waits: place
-- (1: new, 2: perhaps there) and its name.
-- Answers the token, if nobody has the key or waits for it: most ask no more, so this comes before all else. Or as the rest says.
local key, queue = KEYS[1], 'onward:q:' .. KEYS[1]
local mark, holder, ttl, floor, place, me = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
-- Who has a place comes for what he was handed.
if floor ~= '' and place ~= '2' and redis.call('EXISTS', key, queue) == 0 then
  local token = draw(redis.pcall, floor)
  if token then
    redis.call('SET', key, mark .. token .. ':' .. floor .. ':' .. holder, 'PX', ttl)
    return token
  end
end
