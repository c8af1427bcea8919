"""The Lua scripts of retraining jobs. A job is changed only by its current attempt: others come too late.

States: queued, running, succeeded, failed, cancelled. A model has at most one job that is queued or running. Its id is
in `meta`, and every change is checked against it.
"""

from service.store import keys
from service.store.scripts import Script, include

HISTORY = 20
"""Jobs of a model that are kept."""
ATTEMPTS = 3
"""Attempts at a job that may die; the job has failed then."""

# In Lua: `now()`, seconds since the epoch by Redis's clock; `tell()`, a message to the trainers.
_NOW = f"""
local function now()
  local time = redis.call('TIME')
  return tonumber(time[1]) + tonumber(time[2]) / 1e6
end
local function tell() redis.call('PUBLISH', '{keys.JOB_NEWS.decode()}', '') end
"""
# In Lua: `start(meta, job, jobs, prefix, id, request, digest)`.
_START = f"""
local function start(meta, job, jobs, prefix, id, request, digest)
  redis.call('HSET', job, 'id', id, 'state', 'queued', 'request', request, 'digest', digest, 'attempt', 1,
    'created', string.format('%.3f', now()), 'beat', string.format('%.3f', now()))
  redis.call('HSET', meta, 'job', id)
  redis.call('LPUSH', jobs, id)
  for _, old in ipairs(redis.call('LRANGE', jobs, {HISTORY}, -1)) do redis.call('DEL', prefix .. old) end
  redis.call('LTRIM', jobs, 0, {HISTORY - 1})
  tell()
end
"""
_END = """
local function finish(meta, job, state, detail)
  redis.call('HSET', job, 'state', state, 'ended', string.format('%.3f', now()), 'detail', detail)
  redis.call('HDEL', meta, 'job', 'pin', 'pinned_at')
end
"""

# Start a job, if the model has none.
# KEYS: meta, job, jobs. ARGV: generation, id, request (JSON), digest of the body, prefix of the jobs' keys.
# -> {"started"} | {"same"}: it is there already | {"different"}: by another body | {"busy", id} | {"gone"}
START = Script(
    _NOW
    + _START
    + """
local model = redis.call('HMGET', KEYS[1], 'generation', 'job')
if model[1] ~= ARGV[1] then return {'gone'} end
local known = redis.call('HGET', KEYS[2], 'digest')
if known then return {known == ARGV[4] and 'same' or 'different'} end
if model[2] then return {'busy', model[2]} end
start(KEYS[1], KEYS[2], KEYS[3], ARGV[5], ARGV[2], ARGV[3], ARGV[4])
return {'started'}
"""
)

# Fire a schedule once: start its job, if nobody did so before and no job is under way.
# KEYS: meta, job, jobs, schedule.
# ARGV: generation, id, request (JSON), prefix of the jobs' keys, number of firings seen, schedule seen,
#   when it is due next ("": never), position.
# -> 1, or 0 if another did, the schedule is another one or the model is busy or gone.
FIRE = Script(
    _NOW
    + _START
    + """
local model = redis.call('HMGET', KEYS[1], 'generation', 'job')
if model[1] ~= ARGV[1] or model[2] then return 0 end
local schedule = redis.call('HMGET', KEYS[4], 'number', 'schedule')
if schedule[1] ~= ARGV[5] or schedule[2] ~= ARGV[6] then return 0 end
redis.call('HSET', KEYS[4], 'number', tonumber(schedule[1]) + 1, 'due', ARGV[7], 'from', ARGV[8])
redis.call('HDEL', KEYS[4], 'best')
start(KEYS[1], KEYS[2], KEYS[3], ARGV[4], ARGV[2], ARGV[3], '')
return 1
"""
)

# Set a schedule, or take it away.
# KEYS: meta, schedule. ARGV: generation, schedule (JSON, "": none), when it is due first ("": never). -> 1, or 0: gone
SCHEDULE = Script("""
local model = redis.call('HMGET', KEYS[1], 'generation', 'position')
if model[1] ~= ARGV[1] then return 0 end
local number = tonumber(redis.call('HGET', KEYS[2], 'number') or 0)
redis.call('DEL', KEYS[2])
if ARGV[2] ~= '' then
  redis.call('HSET', KEYS[2], 'schedule', ARGV[2], 'number', number + 1, 'due', ARGV[3], 'from', model[2])
end
return 1
""")

# Remember the best fading loss since a schedule's last firing.
# KEYS: meta, schedule. ARGV: generation, number of firings seen, loss.
BEST = Script("""
if redis.call('HGET', KEYS[1], 'generation') ~= ARGV[1] then return 0 end
local schedule = redis.call('HMGET', KEYS[2], 'number', 'best')
if schedule[1] ~= ARGV[2] then return 0 end
if not schedule[2] or tonumber(ARGV[3]) < tonumber(schedule[2]) then
  redis.call('HSET', KEYS[2], 'best', ARGV[3])
end
return 1
""")

# What every change by a trainer asks first. KEYS: meta, job. ARGV: id, attempt.
_MINE = """
local function mine(states)
  local job = redis.call('HMGET', KEYS[2], 'attempt', 'state')
  if redis.call('HGET', KEYS[1], 'job') ~= ARGV[1] or job[1] ~= ARGV[2] then return false end
  return job[2] == states
end
"""

# In Lua: `next_attempt(died)`, which queues a running job again; without a further attempt it has failed. Returns the
# attempt, or -1. What was stored before `deaths` was counted had one death for each attempt.
_NEXT_ATTEMPT = f"""
local function next_attempt(died)
  local job = redis.call('HMGET', KEYS[2], 'attempt', 'deaths')
  local attempt = tonumber(job[1])
  local deaths = tonumber(job[2] or attempt - 1) + died
  if deaths >= {ATTEMPTS} then
    finish(KEYS[1], KEYS[2], 'failed', 'its trainer died ' .. deaths .. ' times')
    return -1
  end
  redis.call('HSET', KEYS[2], 'state', 'queued', 'attempt', attempt + 1, 'deaths', deaths,
    'beat', string.format('%.3f', now()))
  return attempt + 1
end
"""

# A trainer claims a job: one that is queued, or one that is running and whose heartbeat has not moved for long.
# KEYS: meta, job. ARGV: id, attempt, state and beat as the trainer saw them, who claims it (a process's identity).
# -> the attempt to run, 0 if another was faster, -1 if the job has ended.
CLAIM = Script(
    _NOW
    + _END
    + _MINE
    + _NEXT_ATTEMPT
    + """
if not mine(ARGV[3]) or redis.call('HGET', KEYS[2], 'beat') ~= ARGV[4] then return 0 end
if redis.call('HGET', KEYS[2], 'cancel') then
  finish(KEYS[1], KEYS[2], 'cancelled', '')
  return -1
end
local attempt = tonumber(ARGV[2])
if ARGV[3] == 'running' then
  attempt = next_attempt(1)
  if attempt < 0 then return -1 end
end
redis.call('HSET', KEYS[2], 'state', 'running', 'beat', string.format('%.3f', now()), 'holder', ARGV[5])
redis.call('HSETNX', KEYS[2], 'started', string.format('%.3f', now()))
redis.call('HDEL', KEYS[2], 'progress', 'stage')
return attempt
"""
)

# Give a running job back to the trainers.
# KEYS: meta, job. ARGV: id, attempt, 1 if its process died, 0 if it was stopped.
# -> the next attempt, 0 if the job is not this attempt's any more, -1 if it has ended.
GIVE_BACK = Script(
    "#!lua flags=allow-oom\n"
    + _NOW
    + _END
    + _MINE
    + _NEXT_ATTEMPT
    + """
if not mine('running') then return 0 end
if redis.call('HGET', KEYS[2], 'cancel') then
  finish(KEYS[1], KEYS[2], 'cancelled', '')
  return -1
end
local attempt = next_attempt(tonumber(ARGV[3]))
tell()
return attempt
"""
)

# A running job's heartbeat, with what it needs of the log and how far it is.
# KEYS: meta, job. ARGV: id, attempt, position from which the log is needed ("": nothing), stage,
#   progress (JSON, "": as before).
# -> 1, or 0 if it is not this attempt's any more
JOB_BEAT = Script(
    "#!lua flags=allow-oom\n"
    + _NOW
    + _MINE
    + """
if not mine('running') then return 0 end
redis.call('HSET', KEYS[2], 'beat', string.format('%.3f', now()), 'stage', ARGV[4])
if ARGV[5] ~= '' then redis.call('HSET', KEYS[2], 'progress', ARGV[5]) end
if ARGV[3] ~= '' then
  redis.call('HSET', KEYS[1], 'pin', ARGV[3], 'pinned_at', string.format('%.0f', now()))
end
return 1
"""
)

# End a running job without promoting anything. KEYS: meta, job. ARGV: id, attempt, state, result (JSON), detail.
# -> 1, or 0 if it is not this attempt's any more
FINISH = Script(
    "#!lua flags=allow-oom\n"
    + _NOW
    + _END
    + _MINE
    + """
if not mine('running') then return 0 end
redis.call('HSET', KEYS[2], 'result', ARGV[4])
finish(KEYS[1], KEYS[2], ARGV[3], ARGV[5])
return 1
"""
)

# Promote a candidate and so end the job: the command, its blob and the job's end are one.
# KEYS: meta, job, log, blobs.
# ARGV: id, attempt, generation, token, command (JSON), candidate, its position, positions it may be behind,
#   result (JSON), most blobs, log id of the last entry that the trainer has read.
# -> {"appended", log id} | {"behind"}: read on, also where weights were replaced or the log was trimmed since
#   | {"late"}: not this attempt's any more | {"cancelled"} | {"full"}
PROMOTE = Script(
    _NOW
    + _END
    + _MINE
    + include("append_command")
    + """
local generation, position, commands = unpack(redis.call('HMGET', KEYS[1], 'generation', 'position', 'commands'))
if generation ~= ARGV[3] or not mine('running') then return {'late'} end
if redis.call('HGET', KEYS[2], 'cancel') then
  finish(KEYS[1], KEYS[2], 'cancelled', '')
  return {'cancelled'}
end
if tonumber(position) - tonumber(ARGV[7]) > tonumber(ARGV[8]) then return {'behind'} end
-- The learner will need what follows the candidate: while the log holds the entry before, it holds all that follows.
if position ~= ARGV[7] and #redis.call('XRANGE', KEYS[3], ARGV[11], ARGV[11]) == 0 then return {'behind'} end
local at, number = string.match(ARGV[11], '(%d+)-(%d+)')
for _, blob in ipairs(redis.call('HKEYS', KEYS[4])) do
  local place, command = string.match(blob, '(%d+)-(%d+):')
  if tonumber(place) + tonumber(command) / 1024 > tonumber(at) + tonumber(number) / 1024 then return {'behind'} end
end
if tonumber(commands) >= 1023 or redis.call('HLEN', KEYS[4]) >= tonumber(ARGV[10]) then return {'full'} end
local id = append_command(KEYS[1], KEYS[3], KEYS[4], ARGV[4], ARGV[5], ARGV[6], ARGV[7])
redis.call('HSET', KEYS[2], 'result', ARGV[9], 'log_id', id)
finish(KEYS[1], KEYS[2], 'succeeded', '')
return {'appended', id}
"""
)

# Cancel a job: at once if it waits; its trainer ends one that runs. KEYS: meta, job. ARGV: id.
# -> the state after it, or nil if there is no such job.
CANCEL = Script(
    _NOW
    + _END
    + """
local state = redis.call('HGET', KEYS[2], 'state')
if not state then return false end
if redis.call('HGET', KEYS[1], 'job') ~= ARGV[1] then return state end
redis.call('HSET', KEYS[2], 'cancel', 1)
if state == 'queued' then
  finish(KEYS[1], KEYS[2], 'cancelled', '')
  return 'cancelled'
end
tell()
return state
"""
)
