-- A lease of ours is the string ow1:OWNER:TOKEN:SINCE:HOLDER, with an expiry. Whatever else a key holds is a foreign lock.
local function is_of(value, owner)
  return value and string.sub(value, 1, 37) == 'ow1:' .. owner .. ':'
end

-- C4: above every token before, and not below the clock, so that tokens grow even if the counter is lost. Lua joins large numbers in
-- short form, so they are formatted by hand.
local function above(last)
  local time = redis.call('TIME')
  local now = time[1] * 1000000 + time[2]
  local token = (tonumber(last) or 0) + 1
  if token < now then token = now end
  return string.format('%d', token), string.format('%d', now)
end

-- Writes a lease with a new token and moves the counter; nothing is written if the condition does not hold.
local function grant(key, fence, last, owner, holder, ttl, condition)
  local token, now = above(last)
  if not redis.call('SET', key, 'ow1:' .. owner .. ':' .. token .. ':' .. now .. ':' .. holder, 'PX', ttl, condition) then return false end
  redis.call('SET', fence, token)
  return token
end

-- Gives the key to the first process in its queue that listens: a lease of the process, for as long as it may take to confirm it.
-- A process that does not listen is gone, and skipped. Returns who has it; `me` for the asker, who gets no lease; false for nobody.
local function hand_over(key, fence, last, queue, claim, condition, me)
  for _ = 1, 256 do
    local first = redis.call('LPOP', queue)
    if not first or first == me then return first end
    if redis.call('PUBLISH', 'onward:wake:' .. first, key) > 0 then
      if grant(key, fence, last, first, 'handed over', claim, condition) then return first end
      return false
    end
  end
  return false
end
