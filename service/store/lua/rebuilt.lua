#!lua flags=allow-oom
-- Note that a model is of another spec now.
-- -> "kept" | "lost": another learner leads | "stale": a later rebuild is noted, or the command is not of this log
local meta, lease, log = unpack(KEYS)
local generation, term, timeline, log_id, token = unpack(ARGV, 1, 5)  -- log id and token of the command
local spec = ARGV[6]
--@include fence
--@include history

if not leads(meta, lease, generation, term) then return 'lost' end
if not is_of_this_log(meta, log, timeline, log_id, token) then return 'stale' end
local known = redis.call('HGET', meta, 'rebuilt_at') or '0-0'
if is_before(log_id, known) then return 'stale' end
redis.call('HSET', meta, 'rebuilt_at', log_id, 'rebuilt', spec)
return 'kept'
