#!lua flags=no-writes
-- The sizes of 1,000 entries, without their blocks. `start` is as XRANGE takes it.
-- -> {log id, bytes of all blocks up to it, log id, bytes, ...}
local log = KEYS[1]
local start = ARGV[1]

local sizes = {}
for _, entry in ipairs(redis.call('XRANGE', log, start, '+', 'COUNT', 1000)) do
  for field = 1, #entry[2], 2 do
    if entry[2][field] == 's' then
      sizes[#sizes + 1] = entry[1]
      sizes[#sizes + 1] = entry[2][field + 1]
    end
  end
end
return sizes
