#!lua flags=allow-oom
-- End a running job without a promotion.
-- -> 1, or 0 if the job is not this attempt's any more
local meta, job = unpack(KEYS)
-- result: JSON ("": none)
local id, attempt, state, result, detail = unpack(ARGV)
--@include job

if not is_mine(meta, job, id, attempt, 'running') then return 0 end
redis.call('HSET', job, 'result', result)
end_job(meta, job, state, detail)
return 1
