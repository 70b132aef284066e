-- A lease of ours is the string ow1:OWNER:TOKEN:SINCE:HOLDER, with an expiry. Whatever else a key holds is a foreign lock.
-- One that was handed over has an h before its SINCE until its holder rewrites it; a renewal does not.
-- How long a queue lasts that nobody joins:
local QUEUE = '90000000'

local function begins(value, mark)
  return type(value) == 'string' and string.sub(value, 1, #mark) == mark
end

local function clock()
  local time = redis.call('TIME')
  return string.format('%d', time[1] * 1000000 + time[2])
end

-- Returns a token, since when it is, and the clock if the asker did not know it.
local function mint(floor)
  local token = floor ~= '' and draw(redis.call, floor)
  if token then return token, floor, false end
  local now = clock()
  return draw(redis.call, now) or now, now, now
end

-- Gives the key to the first place in its queue whose process listens. `popped` has left the queue already.
-- Returns the place; `me` for the asker's, who gets no lease; false for nobody. Without a counter nobody gets one: then the first place
-- hears :0:KEY, and asks.
local function hand_over(key, queue, condition, me, popped)
  local now, token, problem
  for _ = 1, 256 do
    -- A removal comes before what is written: a server that is full lets a script go on after it.
    local first = popped or redis.call('LPOP', queue)
    popped = nil
    if not first or first == me then return first end
    if not now then
      now = clock()
      token, problem = draw(redis.pcall, now)
      if problem then
        redis.call('PUBLISH', 'onward:wake:' .. string.sub(first, 1, 32), ':0:' .. key)
        return false
      end
      token = token or now
    end
    if give(first, key, token, now, condition) then return first end
  end
  return false
end
