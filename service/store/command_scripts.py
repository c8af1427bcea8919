"""The Lua scripts of commands in the log. Check first, write last."""

from service.store.feedback_scripts import KEPT_WITH, SEEN
from service.store.scripts import Script

# Append a command, with the blob that it names. In Lua: `append_command(meta, log, blobs, token, command, blob, from)`.
# The blob's field is `<log id>:<from>`: of the log, what came after the position `from` is kept until the command is in
# a snapshot; "" is the command's own position.
APPEND_COMMAND = """
local function append_command(meta, log, blobs, token, command, blob, from)
  local model = redis.call('HMGET', meta, 'position', 'commands', 'bytes')
  local commands = tonumber(model[2]) + 1
  local id = model[1] .. '-' .. string.format('%.0f', commands)
  redis.call('XADD', log, id, 't', token, 'w', '', 's', model[3], 'm', redis.call('TIME')[1], 'c', command)
  redis.call('HSET', meta, 'commands', commands)
  if blob ~= '' then redis.call('HSET', blobs, id .. ':' .. (from == '' and model[1] or from), blob) end
  return id
end
"""

# Append a command, once for a key.
# KEYS: meta, log, blobs, checkpoint states, seen (4), answers (2).
# ARGV: generation, key, command (JSON), blob ("": none), checkpoint whose state is the blob ("": none),
#   most blobs, hyperparameters that it changes (JSON object; "": none), digest of what is asked for.
# -> {"appended", log id} | {"seen", what is kept with the key} | {"full"} | {"unknown"}: no such checkpoint | {"gone"}
COMMAND = Script(
    KEPT_WITH
    + APPEND_COMMAND
    + f"""
local model = redis.call('HMGET', KEYS[1], 'generation', 'commands', 'hyperparameters', 'segment')
if model[1] ~= ARGV[1] then return {{'gone'}} end
local segment = tonumber(model[4] or 0)
local known = kept(5, 9, segment, ARGV[2])
if known then return {{'seen', known}} end
local blob = ARGV[4]
if ARGV[5] ~= '' then blob = redis.call('HGET', KEYS[4], ARGV[5]) end
if not blob then return {{'unknown'}} end
if blob ~= '' and redis.call('HLEN', KEYS[3]) >= tonumber(ARGV[6]) then return {{'full'}} end
if tonumber(model[2]) >= 1023 then return {{'full'}} end
if ARGV[7] ~= '' then
  local changed = cjson.decode(model[3] or '{{}}')
  for name, value in pairs(cjson.decode(ARGV[7])) do changed[name] = value end
  redis.call('HSET', KEYS[1], 'hyperparameters', cjson.encode(changed))
end
local id = append_command(KEYS[1], KEYS[2], KEYS[3], ARGV[2], ARGV[3], blob, '')
local position, command = string.match(id, '(%d+)-(%d+)')
redis.call('HSET', KEYS[5 + segment % {SEEN}], 't' .. ARGV[2], position .. ' c' .. command .. ' ' .. ARGV[8])
return {{'appended', id}}
"""
)
