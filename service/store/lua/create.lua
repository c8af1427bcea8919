-- Create a model, if the name is free, and list it.
-- -> {"created", generation}
--   | {"exists", generation, spec, schedule}: a model of this name is there; the spec is that of its newest rebuild
--   | {"again"}: a model was deleted since the caller looked; a late request must not bring one back
local meta, schedule, models, deletions = unpack(KEYS)
-- created: seconds since the epoch; retrain: the schedule (JSON, "": none); due: when that is due first ("": never);
-- seen_deletions: the number that the caller read before
local name, generation, spec, created, retrain, due, seen_deletions = unpack(ARGV)
local EVENTS = 'freshet:events'

local known = redis.call('HMGET', meta, 'generation', 'spec', 'rebuilt', 'retrain')
if known[1] then
  if redis.call('HGET', models, name) ~= known[1] then redis.call('HSET', models, name, known[1]) end
  return {'exists', known[1], known[3] or known[2], known[4] or ''}
end
if (redis.call('GET', deletions) or '0') ~= seen_deletions then return {'again'} end
redis.call('HSET', meta, 'generation', generation, 'spec', spec, 'created', created,
  'position', 0, 'commands', 0, 'bytes', 0, 'timeline', 1, 'retrain', retrain)
if retrain ~= '' then
  redis.call('HSET', schedule, 'schedule', retrain, 'number', 0, 'due', due, 'from', 0)
end
redis.call('HSET', models, name, generation)
redis.call('PUBLISH', EVENTS, name)
return {'created', generation}
