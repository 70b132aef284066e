-- Takes the fill lease of a slot without a fresh entry, or says what is in the way. One step (C1).
-- ARGV: nonce, fill_ttl, nonce of an entry that the caller can't use, epoch to begin if there is none.
if not epoch then
  epoch = ARGV[8]
  redis.call('HSET', EPOCHS, namespace, epoch .. identity)
end

local function take(left)
  redis.call('HSET', LEASES, field, epoch .. ARGV[5] .. string.format('%011x', now + ARGV[6]))
  -- A number of Lua's own would be printed and read again: what came as text goes on as text.
  if left < ARGV[6] + slack then redis.call('PEXPIRE', LEASES, slack == 0 and ARGV[6] or ARGV[6] + slack) end
  return 'lease'
end

-- Where nothing lies, nothing is in the way: most misses ask no more.
if redis.call('EXISTS', SLOT, LEASES, GUARDS) == 0 then return take(-2) end
