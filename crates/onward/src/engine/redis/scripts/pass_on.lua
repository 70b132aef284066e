-- Hands a key that is free to the first in its queue: whoever it was handed to did not confirm in time.
-- KEYS: key, queue. Answers 1 if somebody has it now.
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
if hand_over(KEYS[1], KEYS[2], 'NX', false) then return 1 end
return 0
