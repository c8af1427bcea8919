-- A large value is stored as "\0pieces:NAME:COUNT"; its pieces are the fields NAME:0 to NAME:COUNT-1 of a hash, and NAME
-- begins with when they were written, in milliseconds. Its name and count; nothing if the value is stored as it is.
local function pieces_of(stored)
  if #stored > 100 then return end
  return string.match(stored, '^%zpieces:([%w-]+):(%d+)$')
end

-- What a field of a hash holds, if that is short enough for a reference; else nothing.
local function reference(hash, field)
  return redis.call('HSTRLEN', hash, field) <= 100 and redis.call('HGET', hash, field) or ''
end

-- Whether no piece of a value is missing.
local function is_complete(pieces, stored)
  local name, count = pieces_of(stored)
  for index = 0, tonumber(count or 0) - 1 do
    if redis.call('HEXISTS', pieces, name .. ':' .. index) == 0 then return false end
  end
  return true
end
