-- Create a model, if the name is free.
-- -> {"created" | "same" | "different", generation}
local meta, schedule = unpack(KEYS)
-- created: seconds since the epoch; retrain: the schedule (JSON, "": none); due: when that is due first ("": never)
local generation, spec, created, retrain, due = unpack(ARGV)

local known = redis.call('HMGET', meta, 'generation', 'spec', 'rebuilt', 'retrain')
if known[1] then
  local same = (known[3] or known[2]) == spec and (known[4] or '') == retrain
  return {same and 'same' or 'different', known[1]}
end
redis.call('HSET', meta, 'generation', generation, 'spec', spec, 'created', created,
  'position', 0, 'commands', 0, 'bytes', 0, 'timeline', 1, 'retrain', retrain)
if retrain ~= '' then
  redis.call('HSET', schedule, 'schedule', retrain, 'number', 0, 'due', due, 'from', 0)
end
return {'created', generation}
