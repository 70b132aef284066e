-- Stores an entry if the lease of this nonce still stands: absent or different is refused (INV-2).
-- ARGV: nonce, ttl, time as stale, payload.
local nonce = ARGV[5]
local lease = redis.call('HGET', LEASES, field)
local stands = lease and epoch and string.sub(lease, 1, 24) == epoch .. nonce and now < tonumber(string.sub(lease, 25), 16)
local entry = stands and '\1' .. epoch .. nonce .. string.format('%011x%08x', now + ARGV[6], ARGV[7]) .. ARGV[8]
if stands and field == '' then
  local more = ARGV[7] + slack
  redis.call('SET', SLOT, entry, 'PX', more == 0 and ARGV[6] or ARGV[6] + more)
  redis.call('HDEL', LEASES, field)
  return 'stored'
end
