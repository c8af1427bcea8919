-- Append a command, with the blob that it names. The blob's field is `<log id>:<from>`: what the log holds after the
-- position `from` is kept until a snapshot has passed the command; "" is the command's own position.
local function append_command(meta, log, blobs, token, command, blob, from)
  local model = redis.call('HMGET', meta, 'position', 'commands', 'bytes')
  local commands = tonumber(model[2]) + 1
  local id = model[1] .. '-' .. string.format('%.0f', commands)
  local bytes = string.format('%.0f', tonumber(model[3]) + #command)
  redis.call('XADD', log, id, 't', token, 'w', '', 's', bytes, 'm', redis.call('TIME')[1], 'c', command)
  redis.call('HSET', meta, 'commands', string.format('%.0f', commands), 'bytes', bytes)
  if blob ~= '' then redis.call('HSET', blobs, id .. ':' .. (from == '' and model[1] or from), blob) end
  return id
end
