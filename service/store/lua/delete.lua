#!lua flags=allow-oom
-- Delete a model of one generation with all its keys, and remember that it was deleted on purpose.
-- KEYS: models, deletions, deleted, then every key of the model: meta first, jobs last.
-- -> 1 | 0: the name is another model's, or nobody's and was not listed either
local models, deletions, deleted, meta = unpack(KEYS, 1, 4)
local jobs = KEYS[#KEYS]
local name, generation, now, remembered, job_prefix = unpack(ARGV)
local EVENTS = 'freshet:events'

local known = redis.call('HGET', meta, 'generation')
local is_listed = redis.call('HGET', models, name) == generation
if known and known ~= generation then return 0 end
-- One that Redis has lost is marked, too.
redis.call('ZADD', deleted, now, generation)
redis.call('ZREMRANGEBYRANK', deleted, 0, -1 - tonumber(remembered))
redis.call('INCR', deletions)
if is_listed then redis.call('HDEL', models, name) end
if known then
  for _, job in ipairs(redis.call('LRANGE', jobs, 0, -1)) do redis.call('UNLINK', job_prefix .. job) end
  redis.call('UNLINK', unpack(KEYS, 4))
end
redis.call('PUBLISH', EVENTS, name)
return (known or is_listed) and 1 or 0
