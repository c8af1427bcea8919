#!lua flags=allow-oom
-- Cancel a job: at once if it waits; its trainer ends one that runs.
-- -> the state after it, or nil if there is no such job
local meta, job = unpack(KEYS)
local id = unpack(ARGV)
--@include job

local state = redis.call('HGET', job, 'state')
if not state then return false end
if redis.call('HGET', meta, 'job') ~= id then return state end
if state == 'queued' then
  end_job(meta, job, 'cancelled', '')
  return 'cancelled'
end
redis.call('HSET', job, 'cancel', 1)
tell_trainers()
return state
