-- C4: moves the counter above every token before, and not below `floor`: what the asker knows of this server's clock, in microseconds.
-- False: there is no counter, so only the clock itself is surely above what was lost; or (by `pcall`) the server is full.
-- Digits of one length are compared as text. Lua joins large numbers in short form, so they are formatted by hand.
local function draw(call, fence, floor)
  local last = call('SET', fence, floor, 'GET')
  if not last or type(last) == 'table' then return false end
  if #last == #floor and last < floor then return floor end
  last = tonumber(last) or 0
  if last < tonumber(floor) then return floor end
  local token = string.format('%d', last + 1)
  redis.call('SET', fence, token)
  return token
end
