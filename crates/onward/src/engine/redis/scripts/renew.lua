-- Extends leases whose owner matches (C1); creates and shortens nothing.
-- KEYS: the keys. ARGV: how its lease begins (ow1:OWNER:) and ttl of each. Answers for each {token, remaining}, or 0.
local values = redis.call('MGET', unpack(KEYS))
local answers = {}
for i, key in ipairs(KEYS) do
  local mark, ttl = ARGV[2 * i - 1], tonumber(ARGV[2 * i])
  answers[i] = 0
  if begins(values[i], mark) then
    local left = redis.call('PTTL', key)
    if left < ttl then
      redis.call('PEXPIRE', key, ttl)
      left = ttl
    end
    answers[i] = {string.match(values[i], '^ow1:%x+:(%d+):'), left}
  end
end
return answers
