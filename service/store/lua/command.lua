-- Append a command, once for a key.
-- -> {"appended", log id} | {"seen", what is kept with the key} | {"full"} | {"unknown"}: no such checkpoint | {"gone"}
local meta, log, blobs, checkpoint_states = unpack(KEYS, 1, 4)
local FIRST_SEEN, FIRST_ANSWERS = 5, 9  -- indices of KEYS
-- blob: "" is none; checkpoint: its state is the blob ("": none); hyperparameters: JSON object that it changes ("": none);
-- digest: of what is asked for
local generation, key, command, blob, checkpoint, most_blobs, hyperparameters, digest = unpack(ARGV)
--@include kept
--@include append_command

local model = redis.call('HMGET', meta, 'generation', 'commands', 'hyperparameters', 'segment')
if model[1] ~= generation then return {'gone'} end
local segment = tonumber(model[4] or 0)
local known = kept(FIRST_SEEN, FIRST_ANSWERS, segment, key)
if known then return {'seen', known} end
if checkpoint ~= '' then blob = redis.call('HGET', checkpoint_states, checkpoint) end
if not blob then return {'unknown'} end
if blob ~= '' and redis.call('HLEN', blobs) >= tonumber(most_blobs) then return {'full'} end
if tonumber(model[2]) >= 1023 then return {'full'} end
if hyperparameters ~= '' then
  local changed = cjson.decode(model[3] or '{}')
  for name, value in pairs(cjson.decode(hyperparameters)) do changed[name] = value end
  redis.call('HSET', meta, 'hyperparameters', cjson.encode(changed))
end
local id = append_command(meta, log, blobs, key, command, blob, '')
local position, number = string.match(id, '(%d+)-(%d+)')
redis.call('HSET', KEYS[FIRST_SEEN + segment % SEEN], 't' .. key, position .. ' c' .. number .. ' ' .. digest)
return {'appended', id}
