-- Keep a checkpoint. Beyond `most` the oldest that was made by the clock goes, else the oldest.
-- -> 1, or 0 if the lead is lost
local meta, lease, checkpoints, states = unpack(KEYS)
local generation, term, id, description, state, most = unpack(ARGV)
--@include fence
--@include log_id

if not leads(meta, lease, generation, term) then return 0 end
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
for index = 1, #others + 1 - tonumber(most) do
  redis.call('HDEL', checkpoints, others[index].id)
  redis.call('HDEL', states, others[index].id)
end
return 1
