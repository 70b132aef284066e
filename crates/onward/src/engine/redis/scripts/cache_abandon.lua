-- Gives a lease back, if it is this nonce's.
-- ARGV: nonce.
local lease = redis.call('HGET', LEASES, field)
if lease and string.sub(lease, 9, 24) == ARGV[5] then redis.call('HDEL', LEASES, field) end
return 'done'
