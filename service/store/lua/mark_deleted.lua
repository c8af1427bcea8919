#!lua flags=allow-oom
-- Remember the generation of a model that is deleted on purpose; the newest `remembered` are kept.
local deleted = KEYS[1]
local now, generation, remembered = unpack(ARGV)

redis.call('ZADD', deleted, now, generation)
redis.call('ZREMRANGEBYRANK', deleted, 0, -1 - tonumber(remembered))
return 1
