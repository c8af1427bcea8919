#!lua flags=allow-oom
-- List a model as it is: what the list of models says of a name may have been written by version 0.1, and late.
-- -> 1
local meta, models = unpack(KEYS)
local name = ARGV[1]

local generation = redis.call('HGET', meta, 'generation')
if generation then
  redis.call('HSET', models, name, generation)
else
  redis.call('HDEL', models, name)
end
return 1
