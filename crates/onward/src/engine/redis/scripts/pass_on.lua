-- Hands a key that is free to the first in its queue: whoever it was handed to did not come in time.
-- KEYS: key. Answers 1 if somebody has it now.
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
if hand_over(KEYS[1], 'onward:q:' .. KEYS[1], 'NX', false) then return 1 end
return 0
