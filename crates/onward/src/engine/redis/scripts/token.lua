-- C4: moves the counter above every token before, and not below the clock, so that tokens grow even if the counter is lost. Lua joins large
-- numbers in short form, so they are formatted by hand. Returns the token and the time in microseconds.
local function draw(fence)
  local time = redis.call('TIME')
  local clock = time[1] * 1000000 + time[2]
  local now = string.format('%d', clock)
  local last = tonumber(redis.call('SET', fence, now, 'GET')) or 0
  if last < clock then return now, now end
  local token = string.format('%d', last + 1)
  redis.call('SET', fence, token)
  return token, now
end
