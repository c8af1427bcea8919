#!lua flags=allow-oom
-- Record that a command in the log was refused; the newest `most` refusals are kept.
-- -> 1, or 0 if the lead is lost
local meta, lease, refusals = unpack(KEYS)
local generation, term, log_id, refusal, most = unpack(ARGV)
--@include fence
--@include log_id

if not leads(meta, lease, generation, term) then return 0 end
redis.call('HSET', refusals, log_id, refusal)
local ids = redis.call('HKEYS', refusals)
table.sort(ids, is_before)
for index = 1, #ids - tonumber(most) do redis.call('HDEL', refusals, ids[index]) end
return 1
