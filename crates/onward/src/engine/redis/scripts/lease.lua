-- A lease of ours is the string ow1:OWNER:TOKEN:SINCE:HOLDER, with an expiry. Whatever else a key holds is a foreign lock.
local function is_of(value, owner)
  return type(value) == 'string' and string.sub(value, 1, 37) == 'ow1:' .. owner .. ':'
end

-- Writes a lease with a new token; nothing but the counter moves if the condition does not hold.
local function grant(key, fence, owner, holder, ttl, condition)
  local token, now = draw(fence)
  if not redis.call('SET', key, 'ow1:' .. owner .. ':' .. token .. ':' .. now .. ':' .. holder, 'PX', ttl, condition) then return false end
  return token
end

-- Gives the key to the first process in its queue that listens: a lease of the process, for as long as it may take to confirm it.
-- A process that does not listen is gone, and skipped. `popped` has left the queue already.
-- Returns who has it; `me` for the asker, who gets no lease; false for nobody.
local function hand_over(key, fence, queue, claim, condition, me, popped)
  for _ = 1, 256 do
    local first = popped or redis.call('LPOP', queue)
    popped = nil
    if not first or first == me then return first end
    if redis.call('PUBLISH', 'onward:wake:' .. first, key) > 0 then
      if grant(key, fence, first, 'handed over', claim, condition) then return first end
      return false
    end
  end
  return false
end
