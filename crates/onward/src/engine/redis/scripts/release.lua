-- Ends leases whose owner matches (C1): each key goes to the next in its queue, or is free, or stays taken by nobody for a while.
-- KEYS: counter, then key and queue of each. ARGV: claim, then owner, time to keep and an owner that nobody knows, of each.
-- Answers a digit for each: 0 not the owner's, 1 ended, 2 handed over.
local fence, claim = KEYS[1], ARGV[1]
local answers = ''
for i = 1, (#KEYS - 1) / 2 do
  local key, queue = KEYS[2 * i], KEYS[2 * i + 1]
  local owner, keep, nobody = ARGV[3 * i - 1], ARGV[3 * i], ARGV[3 * i + 1]
  local answer = '0'
  local value = redis.pcall('GET', key)
  if is_of(value, owner) then
    answer = '1'
    if keep ~= '0' then
      redis.call('SET', key, 'ow1:' .. nobody .. string.sub(value, 37), 'PX', keep)
      -- The end of the lease has moved: whoever counts on it looks again.
      local first = redis.call('LINDEX', queue, 0)
      if first then redis.call('PUBLISH', 'onward:wake:' .. first, key) end
    elseif hand_over(key, fence, queue, claim, 'XX', false) then
      answer = '2'
    else
      redis.call('DEL', key)
    end
  end
  answers = answers .. answer
end
return answers
