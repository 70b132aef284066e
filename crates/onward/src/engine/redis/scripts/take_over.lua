-- Gives a key that somebody holds to the asker, with a new token (C1). Strings only: what else a key holds is not ours to remove.
-- KEYS: key. ARGV: how its lease begins (ow1:OWNER:), holder, ttl. Answers the token, false if nobody holds it, 0 if it is not a string.
local value = redis.call('MGET', KEYS[1])[1]
if not value then
  if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
  return false
end
if begins(value, ARGV[1]) then return string.match(value, '^ow1:%x+:(%d+):') end
local token, since = mint('')
redis.call('SET', KEYS[1], ARGV[1] .. token .. ':' .. since .. ':' .. ARGV[2], 'PX', ARGV[3])
return token
