-- Remember predictions until their labels come. The expired go first, then the oldest.
-- ARGV: generation, time to live (ms), most bytes, then id, prediction, id, prediction, ...
-- -> how many await their label now, or nil if the model is gone
local meta, times, awaiting, counts = unpack(KEYS)
local generation, ttl_ms, most_bytes = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local FIRST_PAIR = 4
local OVERHEAD = 160  -- bytes that a prediction takes in Redis besides its id and its value
--@include drop

if redis.call('HGET', meta, 'generation') ~= generation then return false end
local ids, values, scores, bytes = {}, {}, {}, 0
for argument = FIRST_PAIR, #ARGV, 2 do ids[#ids + 1] = ARGV[argument] end
local replaced = redis.call('HMGET', awaiting, unpack(ids))
for index, value in ipairs(replaced) do
  local new = string.format('%013.0f', now_ms) .. ARGV[FIRST_PAIR + 2 * index - 1]
  bytes = bytes + #new + (value and -#value or #ids[index])
  values[#values + 1], values[#values + 2] = ids[index], new
  scores[#scores + 1], scores[#scores + 2] = string.format('%.0f', now_ms), ids[index]
  if #values >= 4000 then
    redis.call('HSET', awaiting, unpack(values))
    redis.call('ZADD', times, unpack(scores))
    values, scores = {}, {}
  end
end
if #values > 0 then
  redis.call('HSET', awaiting, unpack(values))
  redis.call('ZADD', times, unpack(scores))
end
redis.call('HINCRBY', counts, 'remembered', #ids)
redis.call('HINCRBY', counts, 'bytes', bytes)
drop('-inf', string.format('%.0f', now_ms - ttl_ms), 10000, 'expired')
while true do
  local count = redis.call('ZCARD', times)
  local taken = tonumber(redis.call('HGET', counts, 'bytes')) + OVERHEAD * count
  if taken <= most_bytes then return count end
  drop('-inf', '+inf', math.max(1, math.floor(count * (taken - most_bytes) / taken)), 'displaced')
end
