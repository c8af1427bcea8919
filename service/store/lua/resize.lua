-- Take room for a model's rebuild: the larger of what it has and what it will have.
-- -> {"ok"} | {"parameters", that all models have together}: no room
local models, sizes = unpack(KEYS)
local name, parameters, most_parameters = unpack(ARGV)
--@include sum_of_others

local own = tonumber(redis.call('HGET', sizes, name) or 0)
local sum = sum_of_others(models, sizes, name)
if sum + tonumber(parameters) > tonumber(most_parameters) then return {'parameters', sum + own} end
if tonumber(parameters) > own then redis.call('HSET', sizes, name, parameters) end
return {'ok'}
