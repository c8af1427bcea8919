-- Create a model, if the name is free and there is room, and list it.
-- -> {"created", generation}
--   | {"exists", generation, spec, schedule}: a model of this name is there; the spec is that of its newest rebuild
--   | {"models", how many there are} | {"parameters", that all models have together}: no room
--   | {"again"}: a model was deleted since the caller looked; a late request must not bring one back
local meta, schedule, models, deletions, sizes = unpack(KEYS)
-- created: seconds since the epoch; retrain: the schedule (JSON, "": none); due: when that is due first ("": never);
-- seen_deletions: the number that the caller read before; parameters: of the model
local name, generation, spec, created, retrain, due, seen_deletions, parameters, most_models, most_parameters =
  unpack(ARGV)
--@include sum_of_others
local EVENTS = 'freshet:events'

local known = redis.call('HMGET', meta, 'generation', 'spec', 'rebuilt', 'retrain')
if known[1] then
  if redis.call('HGET', models, name) ~= known[1] then redis.call('HSET', models, name, known[1]) end
  return {'exists', known[1], known[3] or known[2], known[4] or ''}
end
local count = redis.call('HLEN', models) - redis.call('HEXISTS', models, name)
if count >= tonumber(most_models) then return {'models', count} end
local sum = sum_of_others(models, sizes, name)
if sum + tonumber(parameters) > tonumber(most_parameters) then return {'parameters', sum} end
if (redis.call('GET', deletions) or '0') ~= seen_deletions then return {'again'} end
redis.call('HSET', meta, 'generation', generation, 'spec', spec, 'created', created,
  'position', 0, 'commands', 0, 'bytes', 0, 'timeline', 1, 'retrain', retrain)
if retrain ~= '' then
  redis.call('HSET', schedule, 'schedule', retrain, 'number', 0, 'due', due, 'from', 0)
end
redis.call('HSET', sizes, name, parameters)
redis.call('HSET', models, name, generation)
redis.call('PUBLISH', EVENTS, name)
return {'created', generation}
