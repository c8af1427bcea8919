#!lua flags=no-writes
-- What is kept with a key: position and record.
-- -> the value, or nil
local meta = KEYS[1]
local FIRST_SEEN, FIRST_ANSWERS = 2, 6  -- indices of KEYS
local key = ARGV[1]
--@include kept

local value = kept(FIRST_SEEN, FIRST_ANSWERS, tonumber(redis.call('HGET', meta, 'segment') or 0), key)
return value or false
