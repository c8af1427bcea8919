#!lua flags=allow-oom
-- Ask the leading learner for a new timeline, because a web process has seen what the log does not hold any more.
-- -> 1, or 0 if there is a later timeline already, or the log holds all that was seen
local meta, lease = unpack(KEYS)
local generation = ARGV[1]
local timeline, position, commands, term = unpack(ARGV, 2, 5)  -- that were seen
timeline, position, commands, term = tonumber(timeline), tonumber(position), tonumber(commands), tonumber(term)
local is_gone = ARGV[6] == '1'  -- the log is known to be another one

local model = redis.call('HMGET', meta, 'generation', 'timeline', 'position', 'commands')
if model[1] ~= generation or tonumber(model[2]) > timeline then return 0 end
local head, head_commands = tonumber(model[3]), tonumber(model[4])
local is_older = is_gone
  or tonumber(model[2]) < timeline
  or tonumber(redis.call('HGET', lease, 'term') or 0) < term
  or head < position
  or (head == position and head_commands < commands)
if not is_older then return 0 end
redis.call('HSET', lease, 'renew', timeline + 1)
return 1
