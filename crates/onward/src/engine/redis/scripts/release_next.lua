-- Somebody waits: mostly he is there, and the clock is known.
if first and ARGV[2] then
  local token = draw(redis.pcall, ARGV[2])
  if token and give(first, KEYS[1], token, ARGV[2], 'XX') then return '2' end
end
