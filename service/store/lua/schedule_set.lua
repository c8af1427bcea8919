-- Set a model's schedule, or take it away.
-- -> 1, or 0 if the model is gone
local meta, schedule = unpack(KEYS)
-- text: JSON ("": none); due: when it is due first, seconds since the epoch ("": never)
local generation, text, due = unpack(ARGV)

local model = redis.call('HMGET', meta, 'generation', 'position')
if model[1] ~= generation then return 0 end
local number = tonumber(redis.call('HGET', schedule, 'number') or 0)
redis.call('DEL', schedule)
redis.call('HSET', schedule, 'number', number + 1)  -- who has seen an earlier schedule comes too late to fire it
if text ~= '' then redis.call('HSET', schedule, 'schedule', text, 'due', due, 'from', model[2]) end
return 1
