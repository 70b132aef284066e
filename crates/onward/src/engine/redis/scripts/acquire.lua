-- The key is not free, or somebody waits for it, or only the server can say what time it is.
-- Answers {1, token, remaining, 1 if it was ours, the clock if it was not known} or {0, false, remaining, 1: a lease of ours, 2: foreign and
-- we are first, 3: foreign, false}.

-- An error, a table, is another type than a string: foreign.
local value = redis.pcall('GET', key)

local function busy(ours)
  local left = redis.call('PTTL', key)
  if place and (place == '1' or not redis.call('LPOS', queue, me)) then
    -- Once in a while is enough to keep a queue that is in use.
    if redis.call('RPUSH', queue, me) == 1 or string.sub(mark, 5, 5) == '0' then redis.call('PEXPIRE', queue, QUEUE) end
  end
  if ours then return {0, false, left, 1, false} end
  if place and redis.call('LINDEX', queue, 0) == me then return {0, false, left, 2, false} end
  return {0, false, left, 3, false}
end

if type(value) == 'table' then return busy(false) end
-- Handed over to this place: the lease is the caller's from now on, and as long as he asks for.
if place and begins(value, 'ow1:' .. string.sub(me, 34, 66)) then
  local token, since = string.match(value, '^ow1:%x+:(%d+):h(%d+):')
  if token then
    redis.call('SET', key, mark .. token .. ':' .. since .. ':' .. holder, 'PX', ttl, 'XX')
    return {1, token, ttl, 0, false}
  end
end
if begins(value, mark) then
  return {1, string.match(value, '^ow1:%x+:(%d+):'), redis.call('PTTL', key), 1, false}
end
if value then return busy(string.sub(value, 1, 4) == 'ow1:') end

-- Nobody has it: whoever came first gets it.
local first = hand_over(key, queue, 'NX', me)
if first and first ~= me then return busy(true) end
local token, since, now = mint(floor)
if not redis.call('SET', key, mark .. token .. ':' .. since .. ':' .. holder, 'PX', ttl, 'NX') then return busy(false) end
return {1, token, ttl, 0, now}
