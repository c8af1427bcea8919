-- Keep a checkpoint. Beyond `most` the oldest that was made by the clock goes, else the oldest.
-- -> "kept" | "lost": another learner leads | "stale": its state is not of this log
--   | "incomplete": a piece of the state is missing
local meta, lease, log, checkpoints, states, snapshot, blobs, pieces = unpack(KEYS)
local generation, term, timeline, log_id, token = unpack(ARGV, 1, 5)  -- log id and token of the last entry in the state
local id, description, state, most = unpack(ARGV, 6, 9)
--@include fence
--@include history
--@include drop_pieces

if not leads(meta, lease, generation, term) then return 'lost' end
if not is_of_this_log(meta, log, timeline, log_id, token) then return 'stale' end
if not is_complete(pieces, state) then return 'incomplete' end
redis.call('HSET', checkpoints, id, description)
redis.call('HSET', states, id, state)
local found = redis.call('HGETALL', checkpoints)
local others = {}
for field = 1, #found, 2 do
  if found[field] ~= id then
    others[#others + 1] = {id = found[field], periodic = cjson.decode(found[field + 1]).reason == 'periodic'}
  end
end
table.sort(others, function(one, other)
  if one.periodic ~= other.periodic then return one.periodic end
  return is_before(one.id, other.id)
end)
local gone = {}
for index = 1, #others + 1 - tonumber(most) do
  gone[index] = reference(states, others[index].id)
  redis.call('HDEL', checkpoints, others[index].id)
  redis.call('HDEL', states, others[index].id)
end
drop_pieces(pieces, gone, {snapshot, blobs, states})
return 'kept'
