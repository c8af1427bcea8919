#!lua flags=allow-oom
-- Start a new timeline of number `least` or higher: what was learned after the snapshot is gone from the log.
-- -> the new timeline, or 0 if the lead is lost
local meta, lease = unpack(KEYS)
local generation, term, least = unpack(ARGV)
--@include fence

if not leads(meta, lease, generation, term) then return 0 end
local timeline = math.max(tonumber(redis.call('HGET', meta, 'timeline')) + 1, tonumber(least))
redis.call('HSET', meta, 'timeline', timeline)
if tonumber(redis.call('HGET', lease, 'renew') or 0) <= timeline then redis.call('HDEL', lease, 'renew') end
return timeline
