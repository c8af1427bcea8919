-- Write to one of two hashes that are filled in turn, each with about `most` bytes. `slot` and `bytes` come from meta.
local function keep_answer(answers, slot, bytes, key, value, most)
  slot, bytes = tonumber(slot or 0), tonumber(bytes or 0)
  if bytes >= tonumber(most) then
    slot, bytes = 1 - slot, 0
    redis.call('UNLINK', KEYS[answers + slot])
  end
  redis.call('HDEL', KEYS[answers + 1 - slot], key)  -- an older value there would be found first
  redis.call('HSET', KEYS[answers + slot], key, value)
  redis.call('HSET', KEYS[1], 'answers', slot, 'answers_bytes', bytes + #key + #value + 40)
end
