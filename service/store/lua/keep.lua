-- Keep with a key what came of its request: all of a request that appended nothing, how far a stream has come.
-- -> {"kept"} | {"seen", value}: something else is kept with it, and stays | {"gone"}
local meta = KEYS[1]
local FIRST_SEEN, FIRST_ANSWERS = 2, 6  -- indices of KEYS
-- known_value: what the caller knows to be kept with the key ("": nothing); most_bytes: of one hash of answers
local generation, key, known_value, value, most_bytes = unpack(ARGV)
--@include kept
--@include keep_answer

local model = redis.call('HMGET', meta, 'generation', 'segment', 'answers', 'answers_bytes')
if model[1] ~= generation then return {'gone'} end
local segment = tonumber(model[2] or 0)
local known, appended = kept(FIRST_SEEN, FIRST_ANSWERS, segment, key)
if known and known ~= known_value and known ~= value then return {'seen', known} end
if appended then
  redis.call('HSET', KEYS[FIRST_SEEN + segment % SEEN], 't' .. key, value)
else
  keep_answer(FIRST_ANSWERS, model[3], model[4], key, value, most_bytes)
end
return {'kept'}
