#!lua flags=allow-oom
-- Record that a command in the log was refused; the newest `most` refusals are kept.
-- -> "kept" | "lost": another learner leads | "stale": the command is not of this log
local meta, lease, log, refusals = unpack(KEYS)
local generation, term, timeline, log_id, token = unpack(ARGV, 1, 5)  -- log id and token of the command
local refusal, most = unpack(ARGV, 6, 7)
--@include fence
--@include history

if not leads(meta, lease, generation, term) then return 'lost' end
if not is_of_this_log(meta, log, timeline, log_id, token) then return 'stale' end
redis.call('HSET', refusals, log_id, refusal)
local ids = redis.call('HKEYS', refusals)
table.sort(ids, is_before)
for index = 1, #ids - tonumber(most) do redis.call('HDEL', refusals, ids[index]) end
return 'kept'
