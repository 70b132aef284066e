-- What a key shared with utopia-php/cache adds. KEYS[6]: PHP's hash of the key. The last of ARGV: a random number below 10^15.
-- Its epoch is that of the namespace mixed with PHP's generation: so whatever moves the generation, on either side, ends every entry and
-- every lease from before it (INV-2), and where there is none nothing is live.
local SHARED, GENERATION, TOMB = KEYS[6], '__utopia_gen__', '__utopia_tomb__'
local begun = epoch

local function micros()
  local time = redis.call('TIME')
  return time[1] * 1000000 + time[2]
end

-- A seed of ours, or counted on from one: exact as a double. A smaller number is of a purge of PHP's where nothing was, and may come again
-- after whatever loses it.
local function is_sound(generation)
  return generation and #generation == 16 and string.find(generation, '^[1-8]%d+$')
end

local function seed()
  return string.format('%.0f', micros() + ARGV[#ARGV])
end

local function mixed(generation)
  if not (begun and is_sound(generation)) then return false end
  local bytes = {}
  for i = 1, 8 do
    bytes[i] = string.char((string.byte(begun, i) + string.sub(generation, 2 * i - 1, 2 * i)) % 256)
  end
  return table.concat(bytes)
end

epoch = mixed(redis.call('HGET', SHARED, GENERATION))

-- Purges PHP's side as a purge of its own does: the values go, and a new generation refuses its fills in flight. A field named 0 is PHP's
-- word for all. A time in which PHP keeps fills out stays, or is what ours is, if that is longer.
purge_others = function(hold_off)
  local generation, tomb = redis.call('HGET', SHARED, GENERATION), redis.call('HGET', SHARED, TOMB)
  local name, removed = string.lower(field), 0
  if name == '' or name == '0' then
    removed = redis.call('HLEN', SHARED) - (generation and 1 or 0) - (tomb and 1 or 0)
    redis.call('DEL', SHARED)
  elseif name ~= GENERATION and name ~= TOMB then
    removed = redis.call('HDEL', SHARED, name)
  end
  generation = is_sound(generation) and string.format('%.0f', generation + 1) or seed()
  redis.call('HSET', SHARED, GENERATION, generation)
  local until_us = tonumber(tomb) or 0
  -- PHP goes by the server's clock; a manual one is none of its.
  if hold_off > 0 and slack == 0 then until_us = math.max(until_us, micros() + hold_off * 1000) end
  if until_us > 0 then redis.call('HSET', SHARED, TOMB, string.format('%.0f', until_us)) end
  epoch = mixed(generation)
  return removed > 0
end
