--@include pieces
-- Drop the pieces to which no field of these hashes refers: at once those of `gone`, a list of values that were stored
-- before; others only when they are old, as what refers to them may still come.
local function drop_pieces(pieces, gone, hashes)
  if redis.call('EXISTS', pieces) == 0 then return end
  local IN_FLIGHT = 600  -- seconds that writing a value may take
  local used = {}
  for _, hash in ipairs(hashes) do
    for _, field in ipairs(redis.call('HKEYS', hash)) do
      local name = pieces_of(reference(hash, field))
      if name then used[name] = true end
    end
  end
  local before = (tonumber(redis.call('TIME')[1]) - IN_FLIGHT) * 1000
  local was_used = {}
  for _, stored in ipairs(gone) do
    local name = pieces_of(stored)
    if name then was_used[name] = true end
  end
  for _, field in ipairs(redis.call('HKEYS', pieces)) do
    local name = string.match(field, '^[^:]+')
    local is_over = was_used[name] or tonumber(string.match(name, '^%d+')) < before
    if is_over and not used[name] then redis.call('HDEL', pieces, field) end
  end
end
