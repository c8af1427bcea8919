"""The Lua scripts. Each lists its KEYS and ARGV, checks everything first and writes last: Lua has no rollback.

Log ids `<position>-<k>` are compared as the number position + k / 1024, which a double holds exactly.
"""

import hashlib
from dataclasses import dataclass


@dataclass(frozen=True)
class Script:
    """A script and the name under which the server caches it."""

    source: str

    @property
    def sha(self) -> str:
        return _sha(self.source)


_SHAS: dict[str, str] = {}


def _sha(source: str) -> str:
    if source not in _SHAS:
        _SHAS[source] = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()
    return _SHAS[source]


# KEYS: meta, schedule.
# ARGV: generation, spec, created (seconds since the epoch), schedule (JSON, or "": none), when it is due first.
# -> {"created" | "same" | "different", generation}
CREATE = Script("""
local known = redis.call('HMGET', KEYS[1], 'generation', 'spec', 'rebuilt', 'retrain')
if known[1] then
  local same = (known[3] or known[2]) == ARGV[2] and (known[4] or '') == ARGV[4]
  return {same and 'same' or 'different', known[1]}
end
redis.call('HSET', KEYS[1], 'generation', ARGV[1], 'spec', ARGV[2], 'created', ARGV[3],
  'position', 0, 'commands', 0, 'bytes', 0, 'timeline', 1, 'retrain', ARGV[4])
if ARGV[4] ~= '' then
  redis.call('HSET', KEYS[2], 'schedule', ARGV[4], 'number', 0, 'due', ARGV[5], 'from', 0)
end
return {'created', ARGV[1]}
""")

# KEYS: meta, then every other key of the model. ARGV: generation.
# -> 1, or 0 if the model is not of that generation.
DELETE = Script("""#!lua flags=allow-oom
if redis.call('HGET', KEYS[1], 'generation') ~= ARGV[1] then return 0 end
redis.call('UNLINK', unpack(KEYS))
return 1
""")

# Remember the generation of a model that is deleted on purpose.
# KEYS: deleted. ARGV: now (seconds since the epoch), generation, generations remembered.
MARK_DELETED = Script("""#!lua flags=allow-oom
redis.call('ZADD', KEYS[1], ARGV[1], ARGV[2])
redis.call('ZREMRANGEBYRANK', KEYS[1], 0, -1 - tonumber(ARGV[3]))
return 1
""")

# The sizes of 1,000 entries, without their blocks. KEYS: log. ARGV: where to start, as XRANGE takes it.
# -> {log id, bytes of all blocks up to it, log id, bytes, ...}
SIZES = Script("""
local sizes = {}
for _, entry in ipairs(redis.call('XRANGE', KEYS[1], ARGV[1], '+', 'COUNT', 1000)) do
  for field = 1, #entry[2], 2 do
    if entry[2][field] == 's' then
      sizes[#sizes + 1] = entry[1]
      sizes[#sizes + 1] = entry[2][field + 1]
    end
  end
end
return sizes
""")

# When the first entry after a position was appended. KEYS: log. ARGV: position.
# -> {log id, seconds since the epoch}, or nil if there is none.
TIME_AFTER = Script("""
local entry = redis.call('XRANGE', KEYS[1], '(' .. ARGV[1] .. '-1023', '+', 'COUNT', 1)[1]
if not entry then return false end
for field = 1, #entry[2], 2 do
  if entry[2][field] == 'm' then return {entry[1], entry[2][field + 1]} end
end
return {entry[1], '0'}
""")

# Take over the lead of a model, by compare-and-set.
# KEYS: meta, lease. ARGV: generation, term seen, counter seen, holder (the process that takes over).
# -> the new term, or 0 if the lease moved or the model is gone.
ACQUIRE = Script("""#!lua flags=allow-oom
if redis.call('HGET', KEYS[1], 'generation') ~= ARGV[1] then return 0 end
local lease = redis.call('HMGET', KEYS[2], 'term', 'counter')
if (lease[1] or '0') ~= ARGV[2] or (lease[2] or '0') ~= ARGV[3] then return 0 end
redis.call('HSET', KEYS[2], 'counter', 1, 'holder', ARGV[4])
return redis.call('HINCRBY', KEYS[2], 'term', 1)
""")

# Heartbeat. KEYS: meta, lease. ARGV: generation, term, log id of what was published last.
# -> {republication asked for: 0 | 1, least number of a new timeline that is asked for: 0 | number},
#   or nil if the lead is lost.
BEAT = Script("""#!lua flags=allow-oom
local lease = redis.call('HMGET', KEYS[2], 'term', 'republish', 'renew', 'failure', 'counter')
if redis.call('HGET', KEYS[1], 'generation') ~= ARGV[1] or lease[1] ~= ARGV[2] then return false end
local counter = string.format('%.0f', tonumber(lease[5]) + 1)
redis.call('HSET', KEYS[2], 'counter', counter, 'published', ARGV[3], 'republish', 0)
if lease[3] or lease[4] then redis.call('HDEL', KEYS[2], 'renew', 'failure') end
return {tonumber(lease[2] or 0), tonumber(lease[3] or 0)}
""")

# Give up the lead: the next candidate need not wait.
# KEYS: meta, lease. ARGV: generation, term, why the model cannot be led ("": it can).
RELEASE = Script("""#!lua flags=allow-oom
if redis.call('HGET', KEYS[1], 'generation') ~= ARGV[1] then return 0 end
if redis.call('HGET', KEYS[2], 'term') ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[2], 'counter', 0)
if ARGV[3] ~= '' then redis.call('HSET', KEYS[2], 'failure', ARGV[3]) end
return 1
""")

# Ask the leading learner for a republication. KEYS: meta, lease. ARGV: generation.
REPUBLISH = Script("""#!lua flags=allow-oom
if redis.call('HGET', KEYS[1], 'generation') ~= ARGV[1] then return 0 end
if redis.call('HGET', KEYS[2], 'republish') ~= '1' then redis.call('HSET', KEYS[2], 'republish', 1) end
return 1
""")

# Keep a snapshot, trim the log behind it and let go of blobs whose command is behind it.
# What a running job has pinned is kept, unless that would hold more than `keep_bytes` beyond what the log keeps.
# KEYS: meta, lease, snapshot, log, blobs.
# ARGV: generation, term, log id, step, timeline, state, position to trim below, keep_bytes, blobs kept at most,
#   fading loss ("": none).
# -> 1, or 0 if the lead is lost.
SNAPSHOT = Script("""#!lua flags=allow-oom
local model = redis.call('HMGET', KEYS[1], 'generation', 'pin', 'pinned_at')
if model[1] ~= ARGV[1] then return 0 end
if redis.call('HGET', KEYS[2], 'term') ~= ARGV[2] then return 0 end

local function size_from(position)
  local entry = redis.call('XRANGE', KEYS[4], position .. '-0', '+', 'COUNT', 1)[1]
  if not entry then return 0 end
  for field = 1, #entry[2], 2 do
    if entry[2][field] == 's' then return tonumber(entry[2][field + 1]) end
  end
end
local trim = tonumber(ARGV[7])
local pin = tonumber(model[2] or trim)
if pin < trim and tonumber(redis.call('TIME')[1]) - tonumber(model[3]) < 60
    and size_from(ARGV[7]) - size_from(string.format('%.0f', pin)) <= tonumber(ARGV[8]) then
  trim = pin
end
local position, command = string.match(ARGV[3], '(%d+)-(%d+)')
local here = tonumber(position) + tonumber(command) / 1024
local old = {}
for _, name in ipairs(redis.call('HKEYS', KEYS[5])) do
  local at, number, from = string.match(name, '(%d+)-(%d+):(%d+)')
  local place = tonumber(at) + tonumber(number) / 1024
  if place > here then
    trim = math.min(trim, tonumber(from))
  else
    old[#old + 1] = {place, name}
  end
end
table.sort(old, function(a, b) return a[1] > b[1] end)

redis.call('HSET', KEYS[3], 'generation', ARGV[1], 'term', ARGV[2], 'log_id', ARGV[3], 'step', ARGV[4],
  'timeline', ARGV[5], 'state', ARGV[6], 'loss', ARGV[10])
for place, blob in ipairs(old) do
  if place > tonumber(ARGV[9]) or blob[1] < trim then redis.call('HDEL', KEYS[5], blob[2]) end
end
redis.call('XTRIM', KEYS[4], 'MINID', string.format('%.0f', trim) .. '-0')
return 1
""")

# Start a new timeline: what was learned after the snapshot is gone from the log.
# KEYS: meta, lease. ARGV: generation, term, least number of the new timeline.
# -> the new timeline, or 0 if the lead is lost.
NEW_TIMELINE = Script("""#!lua flags=allow-oom
local model = redis.call('HMGET', KEYS[1], 'generation', 'timeline')
if model[1] ~= ARGV[1] or redis.call('HGET', KEYS[2], 'term') ~= ARGV[2] then return 0 end
local timeline = math.max(tonumber(model[2]) + 1, tonumber(ARGV[3]))
redis.call('HSET', KEYS[1], 'timeline', timeline)
return timeline
""")

# Keep a checkpoint; beyond `most` the oldest that was made by the clock goes, else the oldest.
# KEYS: meta, lease, checkpoints, checkpoint states. ARGV: generation, term, id, what it is (JSON), state, most.
# -> 1, or 0 if the lead is lost.
CHECKPOINT = Script("""
if redis.call('HGET', KEYS[1], 'generation') ~= ARGV[1] then return 0 end
if redis.call('HGET', KEYS[2], 'term') ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[3], ARGV[3], ARGV[4])
redis.call('HSET', KEYS[4], ARGV[3], ARGV[5])
local found = redis.call('HGETALL', KEYS[3])
local others = {}
for field = 1, #found, 2 do
  local position, command = string.match(found[field], '(%d+)-(%d+)')
  local periodic = cjson.decode(found[field + 1]).reason == 'periodic'
  if found[field] ~= ARGV[3] then
    others[#others + 1] = {periodic and 0 or 1, tonumber(position) + tonumber(command) / 1024, found[field]}
  end
end
table.sort(others, function(a, b) return a[1] < b[1] or (a[1] == b[1] and a[2] < b[2]) end)
for place = 1, #others + 1 - tonumber(ARGV[6]) do
  redis.call('HDEL', KEYS[3], others[place][3])
  redis.call('HDEL', KEYS[4], others[place][3])
end
return 1
""")

# Note that a model is of another spec now; its live hyperparameters are those of that spec.
# KEYS: meta, lease. ARGV: generation, term, spec. -> 1, or 0 if the lead is lost.
REBUILT = Script("""#!lua flags=allow-oom
if redis.call('HGET', KEYS[1], 'generation') ~= ARGV[1] then return 0 end
if redis.call('HGET', KEYS[2], 'term') ~= ARGV[2] then return 0 end
if redis.call('HGET', KEYS[1], 'rebuilt') ~= ARGV[3] then
  redis.call('HSET', KEYS[1], 'rebuilt', ARGV[3])
  redis.call('HDEL', KEYS[1], 'hyperparameters')
end
return 1
""")

# Ask the leading learner for a new timeline, because a web process has seen the model further than the log goes.
# KEYS: meta, lease. ARGV: generation, timeline, position, commands: what was seen.
# -> 1, or 0 if the log does go so far.
RENEW = Script("""#!lua flags=allow-oom
local model = redis.call('HMGET', KEYS[1], 'generation', 'timeline', 'position', 'commands')
if model[1] ~= ARGV[1] then return 0 end
local here = {tonumber(model[2]), tonumber(model[3]), tonumber(model[4])}
local seen = {tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])}
for part = 1, 3 do
  if here[part] > seen[part] then return 0 end
  if here[part] < seen[part] then
    redis.call('HSET', KEYS[2], 'renew', seen[1] + 1)
    return 1
  end
end
return 0
""")
