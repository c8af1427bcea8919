-- Keep the answer to a request with a key that appended something.
-- -> 1, or 0 if the model is gone
local meta = KEYS[1]
local FIRST_ANSWERS = 2  -- index of KEYS
local generation, key, answer, most_bytes = unpack(ARGV)
--@include keep_answer

local model = redis.call('HMGET', meta, 'generation', 'answers', 'answers_bytes')
if model[1] ~= generation then return 0 end
keep_answer(FIRST_ANSWERS, model[2], model[3], key, answer, most_bytes)
return 1
