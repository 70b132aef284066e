-- Reads a key. KEYS: key. Answers {value, remaining}; false for another type than a string, or false alone if there is none.
local value = redis.call('MGET', KEYS[1])[1]
local left = redis.call('PTTL', KEYS[1])
if left == -2 then return false end
return {value, left}
