#!lua flags=no-writes
-- When the first entry of a later position was appended.
-- -> {log id, seconds since the epoch}, or nil if there is none
local log = KEYS[1]
local position = ARGV[1]

local entry = redis.call('XRANGE', log, string.format('%.0f', tonumber(position) + 1) .. '-0', '+', 'COUNT', 1)[1]
if not entry then return false end
for field = 1, #entry[2], 2 do
  if entry[2][field] == 'm' then return {entry[1], entry[2][field + 1]} end
end
return {entry[1], '0'}
