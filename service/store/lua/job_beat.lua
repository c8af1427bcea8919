#!lua flags=allow-oom
-- A running job's heartbeat, with what it needs of the log and how far it is.
-- -> 1, or 0 if the job is not this attempt's any more
local meta, job = unpack(KEYS)
-- pin: the position after which the log is needed ("": nothing); progress: JSON ("": as before)
local id, attempt, pin, stage, progress = unpack(ARGV)
--@include job

if not is_mine(meta, job, id, attempt, 'running') then return 0 end
redis.call('HSET', job, 'beat', now(), 'stage', stage)
if progress ~= '' then redis.call('HSET', job, 'progress', progress) end
if pin ~= '' then redis.call('HSET', meta, 'pin', pin, 'pinned_at', redis.call('TIME')[1]) end
return 1
