-- Before a lease of a shared key: a generation that a loss cannot bring back, and no time in which PHP keeps fills out.
if not begun then
  begun = ARGV[8]
  redis.call('HSET', EPOCHS, namespace, begun .. identity)
end
local generation = redis.call('HGET', SHARED, GENERATION)
if not is_sound(generation) then
  generation = seed()
  redis.call('HSET', SHARED, GENERATION, generation)
end
epoch = mixed(generation)
local tomb = redis.call('HGET', SHARED, TOMB)
if tomb then
  local left = (tonumber(tomb) or 0) - micros()
  -- Nobody holds off for longer than ten minutes: more is left by a clock that went back.
  if left > 0 and left <= 600000000 then return { 'guarded', math.ceil(left / 1000) } end
  redis.call('HDEL', SHARED, TOMB)
end
