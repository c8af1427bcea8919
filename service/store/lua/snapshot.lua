#!lua flags=allow-oom
-- Keep a snapshot, trim the log behind it and let go of blobs whose command is behind it.
-- What a running job has pinned is kept, unless that would hold more than `keep_bytes` beyond what the log keeps.
-- -> "kept" | "lost": another learner leads | "stale": it is not of this log, or older than the snapshot that is stored
--   | "incomplete": a piece of the state is missing
local meta, lease, snapshot, log, blobs, checkpoint_states, pieces = unpack(KEYS)
local generation, term, timeline, log_id = unpack(ARGV, 1, 4)
local token, step, state = unpack(ARGV, 5, 7)  -- token: of the entry at the log id ("": not known)
local trim_below, keep_bytes = unpack(ARGV, 8, 9)  -- trim_below: a position
local kept_blobs, loss = unpack(ARGV, 10, 11)  -- blobs of commands behind the snapshot; fading loss ("": none)
local PIN_SECONDS = 60
--@include fence
--@include history
--@include drop_pieces

if not leads(meta, lease, generation, term) then return 'lost' end
if not is_of_this_log(meta, log, timeline, log_id, token) then return 'stale' end
if not is_complete(pieces, state) then return 'incomplete' end
local stored = redis.call('HMGET', snapshot, 'generation', 'timeline', 'log_id')
if stored[1] == generation and stored[2] == timeline and is_before(log_id, stored[3]) then return 'stale' end
local model = redis.call('HMGET', meta, 'pin', 'pinned_at')

local function size_from(position)
  local entry = redis.call('XRANGE', log, position .. '-0', '+', 'COUNT', 1)[1]
  if not entry then return 0 end
  for field = 1, #entry[2], 2 do
    if entry[2][field] == 's' then return tonumber(entry[2][field + 1]) end
  end
end
local trim = tonumber(trim_below)
local pin = tonumber(model[1] or trim)
if pin < trim and tonumber(redis.call('TIME')[1]) - tonumber(model[2]) < PIN_SECONDS
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

local gone = {reference(snapshot, 'state')}
redis.call('HSET', snapshot, 'generation', generation, 'term', term, 'log_id', log_id, 'step', step,
  'token', token, 'timeline', timeline, 'state', state, 'loss', loss)
for age, blob in ipairs(passed) do
  if age > tonumber(kept_blobs) or parse_id(blob.command) < trim then
    gone[#gone + 1] = reference(blobs, blob.field)
    redis.call('HDEL', blobs, blob.field)
  end
end
drop_pieces(pieces, gone, {snapshot, blobs, checkpoint_states})

-- A command's id shows what came before it, but the id of the block after it does not show the command. So a command
-- goes only together with that block: a reader that is behind then notices the gap.
local oldest = string.format('%.0f', trim) .. '-0'
local before = trim > 0 and redis.call('XREVRANGE', log, '(' .. oldest, '-', 'COUNT', 1)[1]
if before and not string.find(before[1], '-0$') then oldest = before[1] end
redis.call('XTRIM', log, 'MINID', oldest)
return 'kept'
