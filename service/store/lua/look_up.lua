#!lua flags=no-writes
-- What is known of ids whose observations come without features.
-- KEYS: seen (4), awaiting. ARGV: time to live (ms), `i<id>` for each.
-- -> for each id its position if it was appended, else the prediction that awaits its label, else nil; after it 1 if it
--   is a position, else 0
local SEEN = 4
local awaiting = KEYS[SEEN + 1]
local ttl_ms = tonumber(ARGV[1])
--@include clock

local answer = {}
local predictions = redis.call('HMGET', awaiting, unpack(ARGV, 2))
for row = 1, #predictions do
  local value = predictions[row]
  if value and now_ms - tonumber(string.sub(value, 1, 13)) >= ttl_ms then value = false end
  answer[2 * row - 1], answer[2 * row] = value, 0
end
for slot = 1, SEEN do
  local found = redis.call('HMGET', KEYS[slot], unpack(ARGV, 2))
  for row = 1, #found do
    if found[row] then answer[2 * row - 1], answer[2 * row] = found[row], 1 end
  end
end
return answer
