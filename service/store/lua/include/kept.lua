-- What was seen (observation ids, appends' tokens) is in SEEN hashes that are filled in turn: each takes what comes
-- within a third of the deduplication window, and when the next one begins, the oldest of all is dropped. So everything
-- is kept for at least that many observations, without a sorted set and without trimming.
-- Fields: `i<id>` -> position; `t<key>` -> position and record of a request that appended something, a command too.
-- The key of a request that appended nothing (all duplicates) is among the answers, which are bounded in bytes: no
-- position passes with it.
local SEEN = 4

-- The position and record that are kept with a key, and whether its request appended something; nil if nothing is kept.
-- `seen` and `answers` are indices of KEYS. An answer is a JSON object.
local function kept(seen, answers, segment, key)
  local field = 't' .. key
  for age = 0, SEEN - 1 do
    local value = redis.call('HGET', KEYS[seen + (segment - age) % SEEN], field)
    if value then return value, true end
  end
  for slot = 0, 1 do
    local value = redis.call('HGET', KEYS[answers + slot], key)
    if value and string.sub(value, 1, 1) ~= '{' then return value, false end
  end
end
