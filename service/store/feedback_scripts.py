"""The Lua scripts of feedback and of predictions that await their label. Check first, write last.

What was seen (observation ids, appends' tokens) stands in four hashes that are filled in turn: each
takes what comes within a third of the remembered observations, and when the next one begins, the oldest of all is
dropped. So everything is remembered for at least that many observations, without a sorted set and without trimming.
Fields: `i<id>` -> position; `t<key>` -> position and record of a request.
"""

from service.store.scripts import Script

SEEN = 4
"""Hashes that what was seen is spread over; KEYS after meta and log in every script that knows them."""

BUCKETS = 32
"""Of the distribution of a label's delay: bucket i ends at 2**(i - 5) seconds, the last one is open."""

# Append a block of observations.
# KEYS: meta, log, seen (4), lease, awaiting, awaiting times, awaiting counts, answers (2).
# ARGV: generation, token, rows, block, web (who waits, or ""), observations until the next hash of what was seen
#   begins, record (kept with the key), what the caller knows to be kept with it ("": nothing), step of the caller's
#   replica, most observations that may be unapplied, time to live of predictions (ms),
#   for each row "1" if it joins the prediction that awaits its label, else "0" ("": none joins),
#   `t<key>`, then `i<id>` for each row ("": none), or nothing if no row has one.
# -> {"appended", position} | {"seen", what is kept with the key, answer or ""}
#   | {"duplicates", row, position, row, position, ...} | {"unknown", row, ...}: no prediction awaits these labels
#   | {"awaiting", row, prediction, ...}: these rows do not join, but a prediction awaits their label
#   | {"lag", unapplied observations} | {"gone"}
APPEND = Script(f"""
local FIRST = 13
local model = redis.call('HMGET', KEYS[1], 'generation', 'position', 'bytes', 'segment', 'since')
if model[1] ~= ARGV[1] then return {{'gone'}} end
local segment = tonumber(model[4] or 0)
local known
local duplicates = {{'duplicates'}}
for age = 0, {SEEN - 1} do
  local key = KEYS[3 + (segment - age) % {SEEN}]
  local found = redis.call('HMGET', key, unpack(ARGV, FIRST))
  known = known or found[1]
  for row = 2, #found do
    if found[row] then
      duplicates[#duplicates + 1] = row - 2
      duplicates[#duplicates + 1] = found[row]
    end
  end
end
if known and known ~= ARGV[8] then
  local key = string.sub(ARGV[FIRST], 2)
  local answer = redis.call('HGET', KEYS[11], key) or redis.call('HGET', KEYS[12], key)
  return {{'seen', known, answer or ''}}
end
if #duplicates > 1 then return duplicates end

local joined, delays, freed = {{}}, {{}}, 0
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
if #ARGV > FIRST and redis.call('EXISTS', KEYS[8]) == 1 then
  local found = redis.call('HMGET', KEYS[8], unpack(ARGV, FIRST + 1))
  local unknown, awaiting = {{'unknown'}}, {{'awaiting'}}
  for row = 1, #found do
    local joins = string.sub(ARGV[12], row, row) == '1'
    local alive = found[row] and now - tonumber(string.sub(found[row], 1, 13)) < tonumber(ARGV[11])
    if joins and not found[row] then
      unknown[#unknown + 1] = row - 1
    elseif joins then
      joined[#joined + 1] = ARGV[FIRST + row]
      delays[#delays + 1] = now - tonumber(string.sub(found[row], 1, 13))
      freed = freed + #found[row] + #ARGV[FIRST + row]
    elseif alive then
      awaiting[#awaiting + 1] = row - 1
      awaiting[#awaiting + 1] = found[row]
    end
  end
  if #unknown > 1 then return unknown end
  if #awaiting > 1 then return awaiting end
elseif string.find(ARGV[12], '1', 1, true) then
  local unknown = {{'unknown'}}
  for row = 1, #ARGV[12] do
    if string.sub(ARGV[12], row, row) == '1' then unknown[#unknown + 1] = row - 1 end
  end
  return unknown
end

local before = tonumber(model[2])
local published = string.match(redis.call('HGET', KEYS[7], 'published') or '0', '^%d+')
local lag = before - math.max(tonumber(ARGV[9]), tonumber(published))
if lag >= tonumber(ARGV[10]) then return {{'lag', string.format('%.0f', lag)}} end

local position = before + tonumber(ARGV[3])
local bytes = string.format('%.0f', tonumber(model[3]) + #ARGV[4])
local since = tonumber(model[5] or 0)
if before - since >= tonumber(ARGV[6]) then
  segment, since = segment + 1, before
  redis.call('UNLINK', KEYS[3 + segment % {SEEN}])
end
local here = KEYS[3 + segment % {SEEN}]
local written = string.format('%.0f', position)
redis.call('XADD', KEYS[2], written .. '-0', 't', ARGV[2], 'w', ARGV[5], 's', bytes, 'm', time[1],
  'g', string.sub(ARGV[1], 1, 8), 'b', ARGV[4])
redis.call('HSET', KEYS[1], 'position', written, 'commands', 0, 'bytes', bytes,
  'segment', segment, 'since', string.format('%.0f', since))
redis.call('HSET', here, ARGV[FIRST], written .. ' ' .. ARGV[7])
local fields = {{}}
for argument = FIRST + 1, #ARGV do
  if ARGV[argument] ~= '' then
    fields[#fields + 1] = ARGV[argument]
    fields[#fields + 1] = string.format('%.0f', before + argument - FIRST)
    if #fields >= 4000 then
      redis.call('HSET', here, unpack(fields))
      fields = {{}}
    end
  end
end
if #fields > 0 then redis.call('HSET', here, unpack(fields)) end
if #joined > 0 then
  redis.call('HDEL', KEYS[8], unpack(joined))
  redis.call('ZREM', KEYS[9], unpack(joined))
  redis.call('HINCRBY', KEYS[10], 'bytes', -freed)
  redis.call('HINCRBY', KEYS[10], 'joined', #joined)
  for _, delay in ipairs(delays) do
    local bucket = math.ceil(math.log(math.max(delay, 1) / 1000) / math.log(2)) + 5
    redis.call('HINCRBY', KEYS[10], 'delay:' .. math.max(0, math.min(bucket, {BUCKETS - 1})), 1)
  end
end
return {{'appended', written}}
""")

# Keep with the key of a stream how far it has come.
# KEYS: meta, seen (4). ARGV: generation, field, value.
# -> 1, or 0 if the model is gone.
KEEP = Script(f"""
local model = redis.call('HMGET', KEYS[1], 'generation', 'segment')
if model[1] ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[2 + tonumber(model[2] or 0) % {SEEN}], ARGV[2], ARGV[3])
return 1
""")

# Keep the answer to the request with a key, in two hashes that are filled in turn.
# KEYS: meta, answers (2). ARGV: generation, key, answer, most bytes of one hash.
# -> 1, or 0 if the model is gone.
KEEP_ANSWER = Script("""
local model = redis.call('HMGET', KEYS[1], 'generation', 'answers', 'answers_bytes')
if model[1] ~= ARGV[1] then return 0 end
local slot, bytes = tonumber(model[2] or 0), tonumber(model[3] or 0)
if bytes >= tonumber(ARGV[4]) then
  slot, bytes = 1 - slot, 0
  redis.call('UNLINK', KEYS[2 + slot])
end
redis.call('HSET', KEYS[2 + slot], ARGV[2], ARGV[3])
redis.call('HSET', KEYS[1], 'answers', slot, 'answers_bytes', bytes + #ARGV[2] + #ARGV[3] + 40)
return 1
""")

# What is kept in one field. KEYS: meta, seen (4). ARGV: field. -> the value, or nil.
KEPT = Script(f"""#!lua flags=no-writes
local segment = tonumber(redis.call('HGET', KEYS[1], 'segment') or 0)
for age = 0, {SEEN - 1} do
  local value = redis.call('HGET', KEYS[2 + (segment - age) % {SEEN}], ARGV[1])
  if value then return value end
end
return false
""")

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
