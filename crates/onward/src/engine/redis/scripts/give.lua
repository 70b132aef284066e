-- Gives a key to a place whose process listens: a lease under the owner that the place's name tells, of which the process hears:
-- OWNER:TOKEN:KEY. False if it does not listen: it is gone. How long a key is handed over for:
local CLAIM = '1000'

local function give(first, key, token, since, condition)
  local owner = string.sub(first, 34, 65)
  if redis.call('PUBLISH', 'onward:wake:' .. string.sub(first, 1, 32), owner .. ':' .. token .. ':' .. key) == 0 then return false end
  return redis.call('SET', key, 'ow1:' .. owner .. ':' .. token .. ':h' .. since .. string.sub(first, 66), 'PX', CLAIM, condition)
end
