-- Several keys, or somebody waits, or it is kept or lost.
local answers = ''
for i = 1, #KEYS do
  local key, queue = KEYS[i], 'onward:q:' .. KEYS[i]
  local mark, nobody, keep = ARGV[3 * i - 2], ARGV[3 * i - 1], ARGV[3 * i]
  local answer = '0'
  if i > 1 then value = redis.pcall('GET', key) end
  if begins(value, mark) then
    answer = '1'
    if keep and keep ~= '0' then
      redis.call('SET', key, nobody .. string.sub(value, 38), 'PX', keep)
      -- The end of the lease has moved: whoever counts on it looks again.
      local next = redis.call('LINDEX', queue, 0)
      if next then redis.call('PUBLISH', 'onward:wake:' .. string.sub(next, 1, 32), ':0:' .. key) end
    elseif hand_over(key, queue, 'XX', false, first) then
      answer = '2'
    else
      redis.call('DEL', key)
    end
  end
  first = nil
  answers = answers .. answer
end
return answers
