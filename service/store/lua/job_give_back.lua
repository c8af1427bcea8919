#!lua flags=allow-oom
-- Give a running job back to the trainers.
-- -> the next attempt, 0 if the job is not this attempt's any more, -1 if it has ended
local meta, job = unpack(KEYS)
-- died: 1 if its process died, 0 if it was stopped
local id, attempt, died = unpack(ARGV)
--@include job

if not is_mine(meta, job, id, attempt, 'running') then return 0 end
if redis.call('HGET', job, 'cancel') then
  end_job(meta, job, 'cancelled', '')
  return -1
end
local number = next_attempt(meta, job, tonumber(died))
tell_trainers()
return number
