-- Append a command, set a schedule, or both, once for a key.
-- -> {"appended", log id} | {"seen", what is kept with the key} | {"full"} | {"unknown"}: no such checkpoint | {"gone"}
--   | {"incomplete"}: a piece of the blob is missing
local meta, log, blobs, checkpoint_states, schedule, lease = unpack(KEYS, 1, 6)
local FIRST_SEEN, FIRST_ANSWERS = 7, 11  -- indices of KEYS
local pieces = KEYS[#KEYS]
-- blob: "" is none; checkpoint: its state is the blob ("": none); digest: of what is asked for; command: "" is none; text: the schedule (JSON; "none": take it away, "": as it is);
-- due: when that is due first ("": never)
local generation, key, command, blob, checkpoint, most_blobs, digest, text, due = unpack(ARGV, 1, 9)
local max_lag_bytes = tonumber(ARGV[10])
--@include kept
--@include append_command
--@include set_schedule
--@include pieces

local model = redis.call('HMGET', meta, 'generation', 'commands', 'segment', 'position', 'bytes')
if model[1] ~= generation then return {'gone'} end
local segment = tonumber(model[3] or 0)
local known = kept(FIRST_SEEN, FIRST_ANSWERS, segment, key)
if known then return {'seen', known} end
if checkpoint ~= '' then blob = redis.call('HGET', checkpoint_states, checkpoint) end
if not blob then return {'unknown'} end
if not is_complete(pieces, blob) then return {'incomplete'} end
if blob ~= '' and redis.call('HLEN', blobs) >= tonumber(most_blobs) then return {'full'} end
local applied = redis.call('HGET', lease, 'size')
if command ~= '' and applied and tonumber(model[5]) - tonumber(applied) >= max_lag_bytes then return {'full'} end
if text ~= '' then set_schedule(schedule, text == 'none' and '' or text, due, model[4]) end
local id = model[4] .. '-' .. model[2]
if command ~= '' then id = append_command(meta, log, blobs, key, command, blob, '') end
local position, number = string.match(id, '(%d+)-(%d+)')
redis.call('HSET', KEYS[FIRST_SEEN + segment % SEEN], 't' .. key, position .. ' c' .. number .. ' ' .. digest)
return {'appended', id}
