-- Write one piece of a large value. -> 1 | 0: the model was deleted
local meta, pieces = unpack(KEYS)
local generation, field, piece = unpack(ARGV)
if redis.call('HGET', meta, 'generation') ~= generation then return 0 end
redis.call('HSET', pieces, field, piece)
return 1
