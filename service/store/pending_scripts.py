"""The Lua scripts of predictions that await their label. Check first, write last.

Three keys hold them: a hash of the predictions, a sorted set of when each was made, and counts.
"""

from service.store.feedback_scripts import SEEN
from service.store.scripts import Script

# What stands for ids whose observations come without features.
# KEYS: seen (4), awaiting. ARGV: time to live (ms), `i<id>` for each.
# -> for each id its position if it was appended, else the prediction that awaits its label, else nil; after it 1 if it
#   is a position, else 0.
LOOK_UP = Script(f"""#!lua flags=no-writes
local answer = {{}}
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local awaiting = redis.call('HMGET', KEYS[{SEEN + 1}], unpack(ARGV, 2))
for row = 1, #awaiting do
  local value = awaiting[row]
  if value and now - tonumber(string.sub(value, 1, 13)) >= tonumber(ARGV[1]) then value = false end
  answer[2 * row - 1], answer[2 * row] = value, 0
end
for slot = 1, {SEEN} do
  local found = redis.call('HMGET', KEYS[slot], unpack(ARGV, 2))
  for row = 1, #found do
    if found[row] then answer[2 * row - 1], answer[2 * row] = found[row], 1 end
  end
end
return answer
""")

# In Lua: `drop(ids, count)`: forget predictions, counted as `count`. For the keys awaiting, awaiting times and counts.
_DROP = """
local function drop(first, last, limit, count)
  local dropped = 0
  while true do
    local ids = redis.call('ZRANGEBYSCORE', KEYS[2], first, last, 'LIMIT', 0, math.min(limit - dropped, 1000))
    if #ids == 0 then return dropped end
    local freed = 0
    local values = redis.call('HMGET', KEYS[3], unpack(ids))
    for place, value in ipairs(values) do freed = freed + #ids[place] + #(value or '') end
    redis.call('HDEL', KEYS[3], unpack(ids))
    redis.call('ZREM', KEYS[2], unpack(ids))
    redis.call('HINCRBY', KEYS[4], 'bytes', -freed)
    redis.call('HINCRBY', KEYS[4], count, #ids)
    dropped = dropped + #ids
    if dropped >= limit then return dropped end
  end
end
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
"""
OVERHEAD = 160
"""Bytes that a prediction takes in Redis besides its id and its value."""

# Remember predictions until their labels come. The expired go first, then the oldest.
# KEYS: meta, awaiting times, awaiting, awaiting counts.
# ARGV: generation, time to live (ms), most bytes, then id, prediction, id, prediction, ...
# -> how many await their label now, or nil if the model is gone.
REMEMBER = Script(
    _DROP
    + f"""
if redis.call('HGET', KEYS[1], 'generation') ~= ARGV[1] then return false end
local ids, values, scores, bytes = {{}}, {{}}, {{}}, 0
for argument = 4, #ARGV, 2 do ids[#ids + 1] = ARGV[argument] end
local replaced = redis.call('HMGET', KEYS[3], unpack(ids))
for place, value in ipairs(replaced) do
  local new = string.format('%013.0f', now) .. ARGV[2 * place + 3]
  bytes = bytes + #new + (value and -#value or #ids[place])
  values[#values + 1], values[#values + 2] = ids[place], new
  scores[#scores + 1], scores[#scores + 2] = string.format('%.0f', now), ids[place]
  if #values >= 4000 then
    redis.call('HSET', KEYS[3], unpack(values))
    redis.call('ZADD', KEYS[2], unpack(scores))
    values, scores = {{}}, {{}}
  end
end
if #values > 0 then
  redis.call('HSET', KEYS[3], unpack(values))
  redis.call('ZADD', KEYS[2], unpack(scores))
end
redis.call('HINCRBY', KEYS[4], 'remembered', #ids)
redis.call('HINCRBY', KEYS[4], 'bytes', bytes)
drop('-inf', string.format('%.0f', now - tonumber(ARGV[2])), 10000, 'expired')
local most = tonumber(ARGV[3])
while true do
  local count = redis.call('ZCARD', KEYS[2])
  local taken = tonumber(redis.call('HGET', KEYS[4], 'bytes')) + {OVERHEAD} * count
  if taken <= most then return count end
  drop('-inf', '+inf', math.max(1, math.floor(count * (taken - most) / taken)), 'displaced')
end
"""
)

# Forget expired predictions, at most 10,000. KEYS: meta, awaiting times, awaiting, awaiting counts.
# ARGV: generation, time to live (ms). -> how many were forgotten.
EXPIRE = Script(
    "#!lua flags=allow-oom"
    + _DROP
    + """
if redis.call('HGET', KEYS[1], 'generation') ~= ARGV[1] then return 0 end
return drop('-inf', string.format('%.0f', now - tonumber(ARGV[2])), 10000, 'expired')
"""
)

# How predictions and labels found each other. KEYS: awaiting times, awaiting counts. ARGV: time to live (ms).
# -> {predictions that await their label, expired that are still there, field, value, field, value, ...}
COUNTS = Script("""#!lua flags=no-writes
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local expired = redis.call('ZCOUNT', KEYS[1], '-inf', string.format('%.0f', now - tonumber(ARGV[1])))
local answer = redis.call('HGETALL', KEYS[2])
table.insert(answer, 1, expired)
table.insert(answer, 1, redis.call('ZCARD', KEYS[1]) - expired)
return answer
""")
