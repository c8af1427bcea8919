#!lua flags=allow-oom
-- Move the heartbeat of the leading learner. What was published last never goes back within a timeline: neither when a
-- learner takes over and has not published yet, nor by a late heartbeat.
-- -> {1 if a republication is asked for, else 0; least number of the new timeline that is asked for, 0 if none is},
--   or nil if the lead is lost
local meta, lease = unpack(KEYS)
-- size: bytes of the log up to what is applied; caught_up: "1" if that is all that others can have published before
local generation, term, timeline, published, size, caught_up = unpack(ARGV)
--@include log_id

local known = redis.call('HMGET', lease, 'term', 'republish', 'renew', 'failure', 'counter', 'timeline', 'published',
  'size')
if redis.call('HGET', meta, 'generation') ~= generation or known[1] ~= term then return false end
local known_timeline = known[6] or timeline
if tonumber(known_timeline) > tonumber(timeline) or (known_timeline == timeline and known[7]
    and is_before(published, known[7])) then
  timeline, published, size = known_timeline, known[7], known[8] or size
end
local counter = string.format('%.0f', tonumber(known[5]) + 1)
redis.call('HSET', lease, 'counter', counter, 'timeline', timeline, 'published', published, 'size', size,
  'republish', 0)
if caught_up == '1' then redis.call('HSET', lease, 'caught_up', term) end
if known[4] then redis.call('HDEL', lease, 'failure') end
return {tonumber(known[2] or 0), tonumber(known[3] or 0)}
