-- Start a job, if the model has none.
-- -> {"started"} | {"same"}: it is there already | {"different"}: by another body | {"busy", id} | {"gone"}
local meta, job, jobs = unpack(KEYS)
-- request: JSON; digest: of the body; prefix: of the jobs' keys
local generation, id, request, digest, prefix = unpack(ARGV)
--@include job

local model = redis.call('HMGET', meta, 'generation', 'job')
if model[1] ~= generation then return {'gone'} end
local known = redis.call('HGET', job, 'digest')
if known then return {known == digest and 'same' or 'different'} end
if model[2] then return {'busy', model[2]} end
start_job(meta, job, jobs, prefix, id, request, digest)
return {'started'}
