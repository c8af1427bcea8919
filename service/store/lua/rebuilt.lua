#!lua flags=allow-oom
-- Note that a model is of another spec now; its live hyperparameters are those of that spec.
-- -> 1, or 0 if the lead is lost
local meta, lease = unpack(KEYS)
local generation, term, spec = unpack(ARGV)
--@include fence

if not leads(meta, lease, generation, term) then return 0 end
if redis.call('HGET', meta, 'rebuilt') ~= spec then
  redis.call('HSET', meta, 'rebuilt', spec)
  redis.call('HDEL', meta, 'hyperparameters')
end
return 1
