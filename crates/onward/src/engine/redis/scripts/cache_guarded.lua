-- Tells whether an owner's guard stands.
-- ARGV: owner.
local ends = redis.call('ZSCORE', GUARDS, ARGV[5])
return ends and now < tonumber(ends) and 1 or 0
