#!lua flags=allow-oom
-- Forget expired predictions, at most 10,000.
-- -> how many were forgotten
local meta, times, awaiting, counts = unpack(KEYS)
local generation, ttl_ms = ARGV[1], tonumber(ARGV[2])
--@include drop

if redis.call('HGET', meta, 'generation') ~= generation then return 0 end
return drop('-inf', string.format('%.0f', now_ms - ttl_ms), 10000, 'expired')
