-- The key is not free, or somebody waits for it.
-- Answers {1, token, remaining, 1 if it was ours} or {0, false, remaining, 1: a lease of ours, 2: foreign and we are first, 3: foreign}.
local owner, holder, ttl, me, place, claim = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]

local function busy(ours)
  local left = redis.call('PTTL', key)
  if place ~= '0' and (place == '1' or not redis.call('LPOS', queue, me)) then
    -- Once in a while is enough to keep a queue that is in use.
    if redis.call('RPUSH', queue, me) == 1 or string.sub(owner, 1, 1) == '0' then redis.call('PEXPIRE', queue, ARGV[7]) end
  end
  if ours then return {0, false, left, 1} end
  if place ~= '0' and redis.call('LINDEX', queue, 0) == me then return {0, false, left, 2} end
  return {0, false, left, 3}
end

if type(value) == 'table' then return busy(false) end
if is_of(value, owner) then
  return {1, string.match(value, '^ow1:%x+:(%d+):'), redis.call('PTTL', key), 1}
end
if place ~= '0' and is_of(value, me) then
  -- Handed over to this process, which confirms: the lease is the caller's from now on.
  local numbers, token = string.match(value, '^ow1:%x+:((%d+):%d+:)')
  redis.call('SET', key, 'ow1:' .. owner .. ':' .. numbers .. holder, 'PX', ttl)
  return {1, token, ttl, 0}
end
if value then return busy(string.sub(value, 1, 4) == 'ow1:') end

first = hand_over(key, fence, queue, claim, 'NX', me, first)
if first and first ~= me then return busy(true) end
return {1, grant(key, fence, owner, holder, ttl, 'NX'), ttl, 0}
