-- Fire a schedule once: start its job, if nobody did so before and the model has no job.
-- -> 1, or 0 if another did, the schedule is another one, or the model is busy or gone
local meta, job, jobs, schedule = unpack(KEYS)
-- request: JSON; prefix: of the jobs' keys; number, text: the schedule's as they were seen; due: when it is due next
-- ("": never); position: of the model
local generation, id, request, prefix, number, text, due, position = unpack(ARGV)
--@include job

local model = redis.call('HMGET', meta, 'generation', 'job')
if model[1] ~= generation or model[2] then return 0 end
local known = redis.call('HMGET', schedule, 'number', 'schedule')
if known[1] ~= number or known[2] ~= text then return 0 end
redis.call('HSET', schedule, 'number', tonumber(number) + 1, 'due', due, 'from', position)
redis.call('HDEL', schedule, 'best')
start_job(meta, job, jobs, prefix, id, request, '')
return 1
