--@include clock
-- Forget the predictions made from one time to another, at most `limit`, counted as `count`. Returns how many.
local function drop(first, last, limit, count)
  local dropped = 0
  while true do
    local ids = redis.call('ZRANGEBYSCORE', times, first, last, 'LIMIT', 0, math.min(limit - dropped, 1000))
    if #ids == 0 then return dropped end
    local freed = 0
    local values = redis.call('HMGET', awaiting, unpack(ids))
    for index, value in ipairs(values) do freed = freed + #ids[index] + #(value or '') end
    redis.call('HDEL', awaiting, unpack(ids))
    redis.call('ZREM', times, unpack(ids))
    redis.call('HINCRBY', counts, 'bytes', -freed)
    redis.call('HINCRBY', counts, count, #ids)
    dropped = dropped + #ids
    if dropped >= limit then return dropped end
  end
end
