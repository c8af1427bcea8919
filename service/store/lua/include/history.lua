--@include log_id
-- Whether a state belongs to the log as it is: same timeline, not beyond the log's end, and the entry at its log id,
-- unless it was trimmed, has the token that the state took there. A late write of an earlier timeline does not, nor does
-- one to a Redis that came back older.
local function is_of_this_log(meta, log, timeline, log_id, token)
  local model = redis.call('HMGET', meta, 'timeline', 'position', 'commands')
  if model[1] ~= timeline or is_before(model[2] .. '-' .. model[3], log_id) then return false end
  local entry = redis.call('XRANGE', log, log_id, log_id)[1]
  if not entry then
    local oldest = redis.call('XRANGE', log, '-', '+', 'COUNT', 1)[1]
    return not (oldest and is_before(oldest[1], log_id))
  end
  for field = 1, #entry[2], 2 do
    if entry[2][field] == 't' then return token == '' or entry[2][field + 1] == token end
  end
end
