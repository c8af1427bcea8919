#!lua flags=allow-oom
-- Keep a snapshot, trim the log behind it and let go of blobs whose command is behind it.
-- What a running job has pinned is kept, unless that would hold more than `keep_bytes` beyond what the log keeps.
-- -> 1, or 0 if the lead is lost
local meta, lease, snapshot, log, blobs = unpack(KEYS)
-- trim_below: a position; kept_blobs: how many of commands that are behind the snapshot; loss: fading ("": none)
local generation, term, log_id, step, timeline, state, trim_below, keep_bytes, kept_blobs, loss = unpack(ARGV)
local PIN_SECONDS = 60
--@include log_id

local model = redis.call('HMGET', meta, 'generation', 'pin', 'pinned_at')
if model[1] ~= generation then return 0 end
if redis.call('HGET', lease, 'term') ~= term then return 0 end

local function size_from(position)
  local entry = redis.call('XRANGE', log, position .. '-0', '+', 'COUNT', 1)[1]
  if not entry then return 0 end
  for field = 1, #entry[2], 2 do
    if entry[2][field] == 's' then return tonumber(entry[2][field + 1]) end
  end
end
local trim = tonumber(trim_below)
local pin = tonumber(model[2] or trim)
if pin < trim and tonumber(redis.call('TIME')[1]) - tonumber(model[3]) < PIN_SECONDS
    and size_from(trim_below) - size_from(string.format('%.0f', pin)) <= tonumber(keep_bytes) then
  trim = pin
end
local passed = {}
for _, field in ipairs(redis.call('HKEYS', blobs)) do
  local command, from = string.match(field, '^(.*):(%d+)$')
  if is_before(log_id, command) then
    trim = math.min(trim, tonumber(from))
  else
    passed[#passed + 1] = {command = command, field = field}
  end
end
table.sort(passed, function(one, other) return is_before(other.command, one.command) end)

redis.call('HSET', snapshot, 'generation', generation, 'term', term, 'log_id', log_id, 'step', step,
  'timeline', timeline, 'state', state, 'loss', loss)
for age, blob in ipairs(passed) do
  if age > tonumber(kept_blobs) or parse_id(blob.command) < trim then redis.call('HDEL', blobs, blob.field) end
end
redis.call('XTRIM', log, 'MINID', string.format('%.0f', trim) .. '-0')
return 1
