-- Promote a candidate and so end the job: the command, its blob and the job's end are one.
-- -> {"appended", log id} | {"behind"}: read on, also where the weights were replaced since
--   | {"gone"}: the log does not hold what the candidate has read last
--   | {"late"}: not this attempt's any more | {"cancelled"} | {"full"}
--   | {"incomplete"}: a piece of the candidate is missing
local meta, job, log, blobs, pieces = unpack(KEYS)
-- read, read_token: the last entry that the candidate has learned; behind: observations that may have come since;
-- result: JSON
local id, attempt, generation, token, command, candidate, read, read_token, behind, result, most_blobs = unpack(ARGV)
--@include job
--@include log_id
--@include append_command
--@include pieces

local model = redis.call('HMGET', meta, 'generation', 'position', 'commands')
if model[1] ~= generation or not is_mine(meta, job, id, attempt, 'running') then return {'late'} end
if redis.call('HGET', job, 'cancel') then
  end_job(meta, job, 'cancelled', '')
  return {'cancelled'}
end
local position = parse_id(read)
if tonumber(model[2]) - position > tonumber(behind) then return {'behind'} end

-- The learner will need what follows the candidate: while the log holds the entry before, it holds all that follows. If
-- another entry is there, Redis came back older.
local entry = redis.call('XRANGE', log, read, read)[1]
local found
for field = 1, entry and #entry[2] or 0, 2 do
  if entry[2][field] == 't' then found = entry[2][field + 1] end
end
if found ~= read_token then return {'gone'} end

-- Every command that replaces the weights has a blob.
for _, field in ipairs(redis.call('HKEYS', blobs)) do
  if is_before(read, field) then return {'behind'} end
end
if redis.call('HLEN', blobs) >= tonumber(most_blobs) then return {'full'} end
if not is_complete(pieces, candidate) then return {'incomplete'} end
local log_id = append_command(meta, log, blobs, token, command, candidate, string.format('%.0f', position))
redis.call('HSET', job, 'result', result, 'log_id', log_id)
end_job(meta, job, 'succeeded', '')
return {'appended', log_id}
