-- Append a block of observations.
-- -> {"appended", position, timeline} | {"seen", what is kept with the key, answer or ""}
--   | {"duplicates", row, position, row, position, ...} | {"unknown", row, ...}: no prediction awaits these labels
--   | {"awaiting", row, prediction, ...}: these rows do not join, but a prediction awaits their label
--   | {"lost"}: what the caller knows to be kept with the key is gone, with the blocks before: Redis came back older
--   | {"lag", unapplied observations, their bytes if those are too many} | {"gone"} | {"older"}: the log ends before what the caller has seen
local meta, log, lease, awaiting, times, counts = KEYS[1], KEYS[2], KEYS[7], KEYS[8], KEYS[9], KEYS[10]
local FIRST_SEEN, FIRST_ANSWERS = 3, 11  -- indices of KEYS
local generation, token, rows, block = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]
local web = ARGV[5]  -- the web process that waits, or ""
local segment_rows = tonumber(ARGV[6])  -- observations until the next hash of what was seen begins
local record, known_record = ARGV[7], ARGV[8]  -- to keep with the key; what the caller knows to be kept ("": nothing)
local known_step, known_timeline = tonumber(ARGV[9]), tonumber(ARGV[10])  -- at which the caller has seen the model
local max_lag, ttl_ms = tonumber(ARGV[11]), tonumber(ARGV[12])
local joins = ARGV[13]  -- for each row "1" if it joins the prediction that awaits its label, else "0"; "": none does
local key = ARGV[14]
local by = ARGV[15]  -- the name of the API key that taught it, or ""
local max_lag_bytes = tonumber(ARGV[16])
local FIRST_ID = 17  -- then `i<id>` for each row ("": none), or nothing if no row has one
local has_ids = #ARGV >= FIRST_ID
local BUCKETS = 32  -- of a label's delay: bucket i ends at 2^(i - 5) seconds, the last one is open
--@include kept
--@include clock

local model = redis.call('HMGET', meta, 'generation', 'position', 'bytes', 'segment', 'since', 'timeline')
if model[1] ~= generation then return {'gone'} end
local before, timeline = tonumber(model[2]), tonumber(model[6])
if timeline < known_timeline or (timeline == known_timeline and before < known_step) then return {'older'} end
if timeline > known_timeline then known_step = 0 end
local segment = tonumber(model[4] or 0)
local known, appended = kept(FIRST_SEEN, FIRST_ANSWERS, segment, key)
if known and known ~= known_record then
  local answer = appended and
    (redis.call('HGET', KEYS[FIRST_ANSWERS], key) or redis.call('HGET', KEYS[FIRST_ANSWERS + 1], key))
  return {'seen', known, answer or ''}
end
local known_position = tonumber(string.match(known_record, '^%d+'))
if known_position and not known
    and (before < known_position or before - known_position < segment_rows * (SEEN - 1)) then
  return {'lost'}
end
if has_ids then
  local duplicates = {'duplicates'}
  for age = 0, SEEN - 1 do
    local found = redis.call('HMGET', KEYS[FIRST_SEEN + (segment - age) % SEEN], unpack(ARGV, FIRST_ID))
    for row = 1, #found do
      if found[row] then
        duplicates[#duplicates + 1] = row - 1
        duplicates[#duplicates + 1] = found[row]
      end
    end
  end
  if #duplicates > 1 then return duplicates end
end

local joined, delays, freed = {}, {}, 0
if has_ids and redis.call('EXISTS', awaiting) == 1 then
  local found = redis.call('HMGET', awaiting, unpack(ARGV, FIRST_ID))
  local unknown, others = {'unknown'}, {'awaiting'}
  for row = 1, #found do
    local is_to_join = string.sub(joins, row, row) == '1'
    local age = found[row] and now_ms - tonumber(string.sub(found[row], 1, 13))
    if is_to_join and not found[row] then
      unknown[#unknown + 1] = row - 1
    elseif is_to_join then
      joined[#joined + 1] = ARGV[FIRST_ID - 1 + row]
      delays[#delays + 1] = age
      freed = freed + #found[row] + #ARGV[FIRST_ID - 1 + row]
    elseif age and age < ttl_ms then
      others[#others + 1] = row - 1
      others[#others + 1] = found[row]
    end
  end
  if #unknown > 1 then return unknown end
  if #others > 1 then return others end
elseif string.find(joins, '1', 1, true) then
  local unknown = {'unknown'}
  for row = 1, #joins do
    if string.sub(joins, row, row) == '1' then unknown[#unknown + 1] = row - 1 end
  end
  return unknown
end

local applied = redis.call('HMGET', lease, 'published', 'size')
local published = string.match(applied[1] or '0', '^%d+')
local lag = before - math.max(known_step, tonumber(published))
if lag >= max_lag then return {'lag', string.format('%.0f', lag)} end
local lag_bytes = applied[2] and lag > 0 and tonumber(model[3]) - tonumber(applied[2]) or 0
if lag_bytes >= max_lag_bytes then return {'lag', string.format('%.0f', lag), string.format('%.0f', lag_bytes)} end

local position = before + rows
local bytes = string.format('%.0f', tonumber(model[3]) + #block)
local since = tonumber(model[5] or 0)
if before - since >= segment_rows then
  segment, since = segment + 1, before
  redis.call('UNLINK', KEYS[FIRST_SEEN + segment % SEEN])
end
local newest = KEYS[FIRST_SEEN + segment % SEEN]
local written = string.format('%.0f', position)
local taught_by = by ~= '' and {'k', by} or {}
redis.call('XADD', log, written .. '-0', 't', token, 'w', web, 's', bytes, 'm', time[1],
  'g', string.sub(generation, 1, 8), 'b', block, unpack(taught_by))
redis.call('HSET', meta, 'position', written, 'commands', 0, 'bytes', bytes,
  'segment', segment, 'since', string.format('%.0f', since))
redis.call('HSET', newest, 't' .. key, written .. ' ' .. record)
local fields = {}
for argument = FIRST_ID, #ARGV do
  if ARGV[argument] ~= '' then
    fields[#fields + 1] = ARGV[argument]
    fields[#fields + 1] = string.format('%.0f', before + 1 + argument - FIRST_ID)
    if #fields >= 4000 then
      redis.call('HSET', newest, unpack(fields))
      fields = {}
    end
  end
end
if #fields > 0 then redis.call('HSET', newest, unpack(fields)) end
if #joined > 0 then
  redis.call('HDEL', awaiting, unpack(joined))
  redis.call('ZREM', times, unpack(joined))
  redis.call('HINCRBY', counts, 'bytes', -freed)
  redis.call('HINCRBY', counts, 'joined', #joined)
  for _, delay in ipairs(delays) do
    local bucket = math.ceil(math.log(math.max(delay, 1) / 1000) / math.log(2)) + 5
    redis.call('HINCRBY', counts, 'delay:' .. math.max(0, math.min(bucket, BUCKETS - 1)), 1)
  end
end
return {'appended', written, timeline}
