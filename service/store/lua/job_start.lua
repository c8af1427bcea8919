-- Start a job, if the model has none.
-- -> {"started"} | {"same"}: it was started already | {"different"}: something else was done with the key
--    | {"busy", id} | {"gone"}
local meta, job, jobs = unpack(KEYS, 1, 3)
local FIRST_SEEN, FIRST_ANSWERS = 4, 8  -- indices of KEYS
-- request: JSON; digest: of the body; prefix: of the jobs' keys; key: the Idempotency-Key
local generation, id, request, digest, prefix, key = unpack(ARGV)
--@include job
--@include kept

local model = redis.call('HMGET', meta, 'generation', 'job', 'segment', 'position')
if model[1] ~= generation then return {'gone'} end
local segment = tonumber(model[3] or 0)
local known = redis.call('HGET', job, 'digest')
if known then return {known == digest and 'same' or 'different'} end
known = kept(FIRST_SEEN, FIRST_ANSWERS, segment, key)
if known then return {string.match(known, ' j (%S+)$') == digest and 'same' or 'different'} end
if model[2] then return {'busy', model[2]} end
redis.call('HSET', KEYS[FIRST_SEEN + segment % SEEN], 't' .. key, model[4] .. ' j ' .. digest)
start_job(meta, job, jobs, prefix, id, request, digest)
return {'started'}
