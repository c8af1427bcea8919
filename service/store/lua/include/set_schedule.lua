-- Set a model's schedule, or take it away ("" as text).
local function set_schedule(schedule, text, due, position)
  local number = tonumber(redis.call('HGET', schedule, 'number') or 0)
  redis.call('DEL', schedule)
  redis.call('HSET', schedule, 'number', number + 1)  -- who has seen an earlier schedule comes too late to fire it
  if text ~= '' then redis.call('HSET', schedule, 'schedule', text, 'due', due, 'from', position) end
end
