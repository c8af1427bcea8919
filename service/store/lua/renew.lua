#!lua flags=allow-oom
-- Ask the leading learner for a new timeline, because a process has seen the model further than the log goes.
-- -> 1, or 0 if the log does go so far
local meta, lease = unpack(KEYS)
local generation, timeline, position, commands = unpack(ARGV)

local model = redis.call('HMGET', meta, 'generation', 'timeline', 'position', 'commands')
if model[1] ~= generation then return 0 end
local head = {tonumber(model[2]), tonumber(model[3]), tonumber(model[4])}
local seen = {tonumber(timeline), tonumber(position), tonumber(commands)}
for part = 1, 3 do
  if head[part] > seen[part] then return 0 end
  if head[part] < seen[part] then
    redis.call('HSET', lease, 'renew', seen[1] + 1)
    return 1
  end
end
return 0
