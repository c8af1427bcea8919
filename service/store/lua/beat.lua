#!lua flags=allow-oom
-- Move the heartbeat of the leading learner.
-- -> {1 if a republication is asked for, else 0; least number of the new timeline that is asked for, 0 if none is},
--   or nil if the lead is lost
local meta, lease = unpack(KEYS)
local generation, term, published = unpack(ARGV)

local known = redis.call('HMGET', lease, 'term', 'republish', 'renew', 'failure', 'counter')
if redis.call('HGET', meta, 'generation') ~= generation or known[1] ~= term then return false end
local counter = string.format('%.0f', tonumber(known[5]) + 1)
redis.call('HSET', lease, 'counter', counter, 'published', published, 'republish', 0)
if known[3] or known[4] then redis.call('HDEL', lease, 'renew', 'failure') end
return {tonumber(known[2] or 0), tonumber(known[3] or 0)}
