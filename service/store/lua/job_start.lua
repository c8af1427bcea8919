-- Start a job, if the model has none.
-- -> {"started"} | {"same"}: it was started already | {"different"}: something else was done with the key
--    | {"busy", id} | {"gone"}
local meta, job, jobs, schedule = unpack(KEYS, 1, 4)
local FIRST_SEEN, FIRST_ANSWERS = 5, 9  -- indices of KEYS
-- request: JSON; digest: of the body; prefix: of the jobs' keys; key: the Idempotency-Key
local generation, id, request, digest, prefix, key = unpack(ARGV, 1, 6)
-- of a rebuild: text, due: the schedule from now on ("": as it is) and when it is due first ("": never);
-- put: "=" and the schedule of the PUT (JSON; "": none), by which a repetition is known
local text, due, put = unpack(ARGV, 7, 9)
--@include job
--@include kept
--@include set_schedule

local model = redis.call('HMGET', meta, 'generation', 'job', 'segment', 'position')
if model[1] ~= generation then return {'gone'} end
local segment = tonumber(model[3] or 0)
local known = redis.call('HGET', job, 'digest')
if known then return {known == digest and 'same' or 'different'} end
known = kept(FIRST_SEEN, FIRST_ANSWERS, segment, key)
if known then return {string.match(known, ' j (%S+)$') == digest and 'same' or 'different'} end
if model[2] then return {'busy', model[2]} end
redis.call('HSET', KEYS[FIRST_SEEN + segment % SEEN], 't' .. key, model[4] .. ' j ' .. digest)
if text ~= '' then set_schedule(schedule, text, due, model[4]) end
if put ~= '' then redis.call('HSET', meta, 'retrain', string.sub(put, 2)) end
start_job(meta, job, jobs, prefix, id, request, digest)
return {'started'}
