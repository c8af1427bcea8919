"""The Lua scripts of feedback: appending, and what is kept with the key of a request. Check first, write last.

What was seen (observation ids, appends' tokens) stands in four hashes that are filled in turn: each
takes what comes within a third of the remembered observations, and when the next one begins, the oldest of all is
dropped. So everything is remembered for at least that many observations, without a sorted set and without trimming.
Fields: `i<id>` -> position; `t<key>` -> position and record of a request that appended something, a command too. The
key of one that appended nothing (all its observations were duplicates) stands among the answers, which are bounded in
bytes: no position passes with it.
"""

from service.store.scripts import Script

SEEN = 4
"""Hashes that what was seen is spread over; KEYS after meta and log in every script that knows them."""

BUCKETS = 32
"""Of the distribution of a label's delay: bucket i ends at 2**(i - 5) seconds, the last one is open."""

# In Lua: `kept(seen, answers, segment, key)`: the position and record that are kept with a key, and whether it has
# appended something; nil if nothing is kept. `seen` and `answers` are places in KEYS. An answer is a JSON object.
KEPT_WITH = f"""
local function kept(seen, answers, segment, key)
  local field = 't' .. key
  for age = 0, {SEEN - 1} do
    local value = redis.call('HGET', KEYS[seen + (segment - age) % {SEEN}], field)
    if value then return value, true end
  end
  for slot = 0, 1 do
    local value = redis.call('HGET', KEYS[answers + slot], key)
    if value and string.sub(value, 1, 1) ~= '{{' then return value, false end
  end
end
"""

# In Lua: `keep_answer(answers, slot, bytes, key, value, most)`: write to one of two hashes that are filled in turn,
# each with about `most` bytes. `slot` and `bytes` are what meta holds of them.
_KEEP_ANSWER = """
local function keep_answer(answers, slot, bytes, key, value, most)
  slot, bytes = tonumber(slot or 0), tonumber(bytes or 0)
  if bytes >= tonumber(most) then
    slot, bytes = 1 - slot, 0
    redis.call('UNLINK', KEYS[answers + slot])
  end
  redis.call('HSET', KEYS[answers + slot], key, value)
  redis.call('HSET', KEYS[1], 'answers', slot, 'answers_bytes', bytes + #key + #value + 40)
end
"""

# Append a block of observations.
# KEYS: meta, log, seen (4), lease, awaiting, awaiting times, awaiting counts, answers (2).
# ARGV: generation, token, rows, block, web (who waits, or ""), observations until the next hash of what was seen
#   begins, record (kept with the key), what the caller knows to be kept with it ("": nothing), step of the caller's
#   replica, most observations that may be unapplied, time to live of predictions (ms),
#   for each row "1" if it joins the prediction that awaits its label, else "0" ("": none joins),
#   key, then `i<id>` for each row ("": none), or nothing if no row has one.
# -> {"appended", position} | {"seen", what is kept with the key, answer or ""}
#   | {"duplicates", row, position, row, position, ...} | {"unknown", row, ...}: no prediction awaits these labels
#   | {"awaiting", row, prediction, ...}: these rows do not join, but a prediction awaits their label
#   | {"lag", unapplied observations} | {"gone"}
APPEND = Script(
    KEPT_WITH
    + f"""
local FIRST = 13
local model = redis.call('HMGET', KEYS[1], 'generation', 'position', 'bytes', 'segment', 'since')
if model[1] ~= ARGV[1] then return {{'gone'}} end
local segment = tonumber(model[4] or 0)
local known, appended = kept(3, 11, segment, ARGV[FIRST])
if known and known ~= ARGV[8] then
  local answer = appended and (redis.call('HGET', KEYS[11], ARGV[FIRST]) or redis.call('HGET', KEYS[12], ARGV[FIRST]))
  return {{'seen', known, answer or ''}}
end
if #ARGV > FIRST then
  local duplicates = {{'duplicates'}}
  for age = 0, {SEEN - 1} do
    local found = redis.call('HMGET', KEYS[3 + (segment - age) % {SEEN}], unpack(ARGV, FIRST + 1))
    for row = 1, #found do
      if found[row] then
        duplicates[#duplicates + 1] = row - 1
        duplicates[#duplicates + 1] = found[row]
      end
    end
  end
  if #duplicates > 1 then return duplicates end
end

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
redis.call('HSET', here, 't' .. ARGV[FIRST], written .. ' ' .. ARGV[7])
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
"""
)

# Keep with a key what came of its request: all of a request that appended nothing, how far a stream has come.
# KEYS: meta, seen (4), answers (2).
# ARGV: generation, key, what the caller knows to be kept with it ("": nothing), value, most bytes of one hash of
#   answers.
# -> {"kept"} | {"seen", value}: something else is kept with it, and stays | {"gone"}
KEEP = Script(
    KEPT_WITH
    + _KEEP_ANSWER
    + f"""
local model = redis.call('HMGET', KEYS[1], 'generation', 'segment', 'answers', 'answers_bytes')
if model[1] ~= ARGV[1] then return {{'gone'}} end
local segment = tonumber(model[2] or 0)
local known, appended = kept(2, 6, segment, ARGV[2])
if known and known ~= ARGV[3] and known ~= ARGV[4] then return {{'seen', known}} end
if appended then
  redis.call('HSET', KEYS[2 + segment % {SEEN}], 't' .. ARGV[2], ARGV[4])
else
  keep_answer(6, model[3], model[4], ARGV[2], ARGV[4], ARGV[5])
end
return {{'kept'}}
"""
)

# Keep the answer to a request with a key that appended something.
# KEYS: meta, answers (2). ARGV: generation, key, answer, most bytes of one hash.
# -> 1, or 0 if the model is gone.
KEEP_ANSWER = Script(
    _KEEP_ANSWER
    + """
local model = redis.call('HMGET', KEYS[1], 'generation', 'answers', 'answers_bytes')
if model[1] ~= ARGV[1] then return 0 end
keep_answer(2, model[2], model[3], ARGV[2], ARGV[3], ARGV[4])
return 1
"""
)

# What is kept with a key: position and record. KEYS: meta, seen (4), answers (2). ARGV: key. -> the value, or nil.
KEPT = Script(
    "#!lua flags=no-writes"
    + KEPT_WITH
    + """
local value = kept(2, 6, tonumber(redis.call('HGET', KEYS[1], 'segment') or 0), ARGV[1])
return value or false
"""
)
