#!lua flags=allow-oom
-- Take over the lead of a model, by compare-and-set on what the candidate saw last.
-- -> the new term, or 0 if the lease moved or the model is gone
local meta, lease = unpack(KEYS)
local generation, seen_term, seen_counter, holder = unpack(ARGV)

if redis.call('HGET', meta, 'generation') ~= generation then return 0 end
local known = redis.call('HMGET', lease, 'term', 'counter')
if (known[1] or '0') ~= seen_term or (known[2] or '0') ~= seen_counter then return 0 end
redis.call('HSET', lease, 'counter', 1, 'holder', holder)
return redis.call('HINCRBY', lease, 'term', 1)
