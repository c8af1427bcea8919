#!lua flags=allow-oom
-- Delete a model. KEYS: meta, then every other key of the model.
-- -> 1, or 0 if the model is not of that generation
local meta = KEYS[1]
local generation = ARGV[1]

if redis.call('HGET', meta, 'generation') ~= generation then return 0 end
redis.call('UNLINK', unpack(KEYS))
return 1
