-- C4: moves the counter above every token before, and not below `floor`: what the asker knows of this server's clock, in microseconds.
-- False, and false: there is no counter, so only the clock itself is surely above what was lost. False, and an error (by `pcall`): the
-- server is full, or another type lies there.
-- Digits of one length are compared as text. Lua joins large numbers in short form, so they are formatted by hand.
local FENCE = 'onward:fence'

local function draw(call, floor)
  local last = call('SET', FENCE, floor, 'GET')
  if not last or type(last) == 'table' then return false, last end
  if #last == #floor and last < floor then return floor end
  last = tonumber(last) or 0
  if last < tonumber(floor) then return floor end
  local token = string.format('%d', last + 1)
  redis.call('SET', FENCE, token)
  return token
end
