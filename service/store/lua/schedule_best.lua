-- Note the best fading loss since a schedule's last firing.
-- -> 1, or 0 if the schedule has fired or changed since it was seen, or the model is gone
local meta, schedule = unpack(KEYS)
local generation, number, loss = unpack(ARGV)

if redis.call('HGET', meta, 'generation') ~= generation then return 0 end
local known = redis.call('HMGET', schedule, 'number', 'best')
if known[1] ~= number then return 0 end
if not known[2] or tonumber(loss) < tonumber(known[2]) then redis.call('HSET', schedule, 'best', loss) end
return 1
