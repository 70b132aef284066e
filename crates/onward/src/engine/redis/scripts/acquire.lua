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

-- Gives the key to the asker. `condition`: NX, or XX for what he was handed.
local function take(condition)
  local token, since, clock = mint(fence, floor)
  if not redis.call('SET', key, mark .. token .. ':' .. since .. ':' .. holder, 'PX', ttl, condition) then return busy(false) end
  return {1, token, ttl, 0, clock}
end

if type(value) == 'table' then return busy(false) end
if begins(value, mark) then
  return {1, string.match(value, '^ow1:%x+:(%d+):'), redis.call('PTTL', key), 1, false}
end
-- Handed over to this process, which confirms: the lease is the caller's from now on.
if place and begins(value, 'ow1:' .. me .. ':') then return take('XX') end
if value then return busy(string.sub(value, 1, 4) == 'ow1:') end

-- A removal comes before what is written: a server that is full lets a script go on after it.
local first = hand_over(key, queue, 'NX', me)
if first and first ~= me then return busy(true) end
return take('NX')
