--@include pieces
-- Drop the pieces to which no field of these hashes refers: at once those of `replaced`, a value that was stored before;
-- others only when they are old, as what refers to them may still come.
local function drop_pieces(pieces, replaced, hashes)
  if redis.call('EXISTS', pieces) == 0 then return end
  local IN_FLIGHT = 600  -- seconds that writing a value may take
  local used = {}
  for _, hash in ipairs(hashes) do
    for _, field in ipairs(redis.call('HKEYS', hash)) do
      if redis.call('HSTRLEN', hash, field) <= 100 then
        local name = pieces_of(redis.call('HGET', hash, field))
        if name then used[name] = true end
      end
    end
  end
  local before = (tonumber(redis.call('TIME')[1]) - IN_FLIGHT) * 1000
  local last = pieces_of(replaced)
  for _, field in ipairs(redis.call('HKEYS', pieces)) do
    local name = string.match(field, '^[^:]+')
    local is_old = name == last or tonumber(string.match(name, '^%d+')) < before
    if is_old and not used[name] then redis.call('HDEL', pieces, field) end
  end
end
