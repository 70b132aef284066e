-- A lease of ours is the string ow1:OWNER:TOKEN:SINCE:HOLDER, with an expiry. Whatever else a key holds is a foreign lock.
-- How long a process that was handed a key may take to confirm it, and how long a queue lasts that nobody joins.
local CLAIM, QUEUE = '500', '90000000'

local function begins(value, mark)
  return type(value) == 'string' and string.sub(value, 1, 37) == mark
end

-- Returns a token, since when it is, and the clock if the asker did not know it.
local function mint(fence, floor)
  local token = floor ~= '' and draw(redis.call, fence, floor)
  if token then return token, floor, false end
  local time = redis.call('TIME')
  local now = string.format('%d', time[1] * 1000000 + time[2])
  return draw(redis.call, fence, now) or now, now, now
end

-- Gives the key to the first process in its queue that listens: a lease of the process, for as long as it may take to confirm it. The
-- token is drawn then. A process that does not listen is gone, and skipped. `popped` has left the queue already.
-- Returns who has it; `me` for the asker, who gets no lease; false for nobody.
local function hand_over(key, queue, condition, me, popped)
  for _ = 1, 256 do
    local first = popped or redis.call('LPOP', queue)
    popped = nil
    if not first or first == me then return first end
    if redis.call('PUBLISH', 'onward:wake:' .. first, key) > 0 then
      return redis.call('SET', key, 'ow1:' .. first .. ':0:0:handed over', 'PX', CLAIM, condition) and first
    end
  end
  return false
end
