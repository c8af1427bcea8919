#!lua flags=allow-oom
-- Give up the lead, so that the next candidate need not wait. `failure` is why the model cannot be led ("": it can).
local meta, lease = unpack(KEYS)
local generation, term, failure = unpack(ARGV)
--@include fence

if not leads(meta, lease, generation, term) then return 0 end
redis.call('HSET', lease, 'counter', 0)
if failure ~= '' then redis.call('HSET', lease, 'failure', failure) end
return 1
