#!lua flags=allow-oom
-- Take over the lead of a model, by compare-and-set on what the candidate saw last. The new term is `least` or higher: a
-- Redis that came back older would give a term for the second time.
-- -> the new term, or 0 if the lease moved or the model is gone
local meta, lease = unpack(KEYS)
local generation, seen_term, seen_counter, holder, least = unpack(ARGV)

if redis.call('HGET', meta, 'generation') ~= generation then return 0 end
local known = redis.call('HMGET', lease, 'term', 'counter')
if (known[1] or '0') ~= seen_term or (known[2] or '0') ~= seen_counter then return 0 end
local term = string.format('%.0f', math.max(tonumber(seen_term) + 1, tonumber(least)))
redis.call('HSET', lease, 'term', term, 'counter', 1, 'holder', holder)
return tonumber(term)
