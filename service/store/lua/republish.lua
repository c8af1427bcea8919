#!lua flags=allow-oom
-- Ask the leading learner to publish once more.
local meta, lease = unpack(KEYS)
local generation = ARGV[1]

if redis.call('HGET', meta, 'generation') ~= generation then return 0 end
if redis.call('HGET', lease, 'republish') ~= '1' then redis.call('HSET', lease, 'republish', 1) end
return 1
