#!lua flags=no-writes
-- How predictions and labels found each other.
-- -> {predictions that await their label, expired that are still there, field, value, field, value, ...}
local times, counts = unpack(KEYS)
local ttl_ms = tonumber(ARGV[1])
--@include clock

local expired = redis.call('ZCOUNT', times, '-inf', string.format('%.0f', now_ms - ttl_ms))
local answer = redis.call('HGETALL', counts)
table.insert(answer, 1, expired)
table.insert(answer, 1, redis.call('ZCARD', times) - expired)
return answer
