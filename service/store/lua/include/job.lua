-- What the scripts of retraining jobs share.
-- States: queued, running, succeeded, failed, cancelled. A model has at most one job that is queued or running; its id
-- is in `meta`. A running job is changed only by its current attempt.
local HISTORY = 50  -- jobs of a model that are kept
local DEATHS = 3  -- attempts that may die until the job has failed

-- Seconds since the epoch, by the server's clock.
local function now()
  local time = redis.call('TIME')
  return string.format('%.3f', tonumber(time[1]) + tonumber(time[2]) / 1e6)
end

-- Tell the trainers that there is news.
local function tell_trainers()
  redis.call('PUBLISH', 'freshet:jobs', '')
end

-- Whether a job is in a state, and this is its current attempt.
local function is_mine(meta, job, id, attempt, state)
  local known = redis.call('HMGET', job, 'attempt', 'state')
  return redis.call('HGET', meta, 'job') == id and known[1] == attempt and known[2] == state
end

local function start_job(meta, job, jobs, prefix, id, request, digest)
  redis.call('HSET', job, 'id', id, 'state', 'queued', 'request', request, 'digest', digest, 'attempt', 1, 'deaths', 0,
    'created', now(), 'beat', now())
  redis.call('HSET', meta, 'job', id)
  redis.call('LPUSH', jobs, id)
  for _, old in ipairs(redis.call('LRANGE', jobs, HISTORY, -1)) do redis.call('DEL', prefix .. old) end
  redis.call('LTRIM', jobs, 0, HISTORY - 1)
  tell_trainers()
end

local function end_job(meta, job, state, detail)
  redis.call('HSET', job, 'state', state, 'ended', now(), 'detail', detail)
  redis.call('HDEL', meta, 'job', 'pin', 'pinned_at')
end

-- Queue a running job for its next attempt, or fail it after its last death. Returns the attempt, or -1.
local function next_attempt(meta, job, died)
  local known = redis.call('HMGET', job, 'attempt', 'deaths')
  local attempt = tonumber(known[1])
  local deaths = tonumber(known[2] or attempt - 1) + died  -- version 0.1 took each attempt for a death
  if deaths >= DEATHS then
    end_job(meta, job, 'failed', 'its trainer died ' .. deaths .. ' times')
    return -1
  end
  redis.call('HSET', job, 'state', 'queued', 'attempt', attempt + 1, 'deaths', deaths, 'beat', now())
  return attempt + 1
end
