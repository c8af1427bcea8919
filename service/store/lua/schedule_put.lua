-- Note the schedule that a model was PUT with: a repetition of the PUT is known by it.
-- -> 1, or 0 if the model is gone
local meta = unpack(KEYS)
local generation, text = unpack(ARGV)

if redis.call('HGET', meta, 'generation') ~= generation then return 0 end
redis.call('HSET', meta, 'retrain', text)
return 1
