-- A trainer claims a job: one that is queued, or one that is running and whose heartbeat has not moved for long.
-- -> the attempt to run, 0 if the job is not as it was seen any more, -1 if it has ended
local meta, job = unpack(KEYS)
-- attempt, state, beat: as the trainer saw them; holder: who claims it (a process's identity)
local id, attempt, state, beat, holder = unpack(ARGV)
--@include job

if not is_mine(meta, job, id, attempt, state) or redis.call('HGET', job, 'beat') ~= beat then return 0 end
if redis.call('HGET', job, 'cancel') then
  end_job(meta, job, 'cancelled', '')
  return -1
end
local number = tonumber(attempt)
if state == 'running' then
  number = next_attempt(meta, job, 1)
  if number < 0 then return -1 end
end
redis.call('HSET', job, 'state', 'running', 'beat', now(), 'holder', holder)
redis.call('HSETNX', job, 'started', now())
redis.call('HDEL', job, 'progress', 'stage')
return number
