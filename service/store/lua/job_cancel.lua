#!lua flags=allow-oom
-- Cancel a job: at once if it waits, or has no trainer any more; else its trainer ends it.
-- -> the state after it, or nil if there is no such job
local meta, job = unpack(KEYS)
local id = unpack(ARGV)
local SILENT = 60  -- seconds without a heartbeat after which no trainer has the job
--@include job

local known = redis.call('HMGET', job, 'state', 'beat')
local state = known[1]
if not state then return false end
if redis.call('HGET', meta, 'job') ~= id then return state end
if state == 'queued' or tonumber(now()) - tonumber(known[2]) > SILENT then
  end_job(meta, job, 'cancelled', '')
  return 'cancelled'
end
redis.call('HSET', job, 'cancel', 1)
tell_trainers()
return state
