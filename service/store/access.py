"""API keys and their limits in Redis."""

from service.access import ApiKey
from service.errors import StoreError
from service.store import keys
from service.store.connection import Link
from service.store.scripts import Script

# KEYS: bucket. ARGV: rate (tokens a second), most it holds, wanted, least.
# -> tokens granted (as many as wanted, if there are; none if there are fewer than `least`), milliseconds to wait.
# A full bucket grants more than it holds, and owes it: so no rest of time gives a large request more than the rate.
TAKE = Script("""
local rate, size, wanted, least = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local LONGEST = 1e15  -- milliseconds
local time = redis.call('TIME')
local now = time[1] + time[2] / 1e6
local known = redis.call('HMGET', KEYS[1], 'tokens', 'at')
local tokens = math.min(size, (tonumber(known[1]) or size) + math.max(0, now - (tonumber(known[2]) or now)) * rate)
local enough = math.min(least, size)
local granted, wait = 0, 0
if tokens >= enough then
    granted = math.max(least, math.min(tokens, wanted))
else
    wait = math.ceil((enough - tokens) / rate * 1000)
end
tokens = tokens - granted
redis.call('HSET', KEYS[1], 'tokens', tostring(tokens), 'at', string.format('%.6f', now))
redis.call('PEXPIRE', KEYS[1], string.format('%.0f', math.min((size - tokens) / rate * 1000 + 1000, LONGEST)))
return {tostring(granted), string.format('%.0f', math.min(wait, LONGEST))}
""")

# KEYS: keys. ARGV: id, record, name. -> 1; 0 if another key has the name.
SAVE = Script("""
for id, record in pairs(redis.call('HGETALL', KEYS[1])) do
    if type(record) == 'string' and record:sub(1, 1) == '{' then
        local known = cjson.decode(record)
        if known.name == ARGV[3] and known.id ~= ARGV[1] then return 0 end
    end
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
return 1
""")


def load_all(link: Link) -> dict[str, ApiKey]:
    """Every key by its id. Raises StoreError."""
    records = link.call("HVALS", keys.API_KEYS)
    try:
        found = [ApiKey.model_validate_json(record) for record in records]
    except ValueError as error:
        raise StoreError(f"an API key in Redis cannot be read: {error}") from error
    return {key.id: key for key in found}


def load(link: Link, key_id: str) -> ApiKey | None:
    """One key by its id. Raises StoreError."""
    record = link.call("HGET", keys.API_KEYS, key_id)
    try:
        return None if record is None else ApiKey.model_validate_json(record)
    except ValueError as error:
        raise StoreError(f"an API key in Redis cannot be read: {error}") from error


def save(link: Link, key: ApiKey) -> bool:
    """Keep a key; False if another one has its name."""
    return bool(link.run(SAVE, [keys.API_KEYS], [key.id, key.model_dump_json(), key.name]))


def delete(link: Link, key_id: str) -> bool:
    """Revoke a key; False if there is none."""
    return bool(link.call("HDEL", keys.API_KEYS, key_id))


def take(link: Link, key_id: str, kind: str, rate: float, wanted: float, least: float) -> tuple[float, float]:
    """Take tokens from a key's bucket of `kind`: how many were granted, and else the seconds to wait.

    The bucket refills at `rate` tokens a second and holds a second's worth. More than that is granted when it is full;
    then nothing is until it has made up for it.
    """
    size = max(rate, 1.0)
    granted, wait = link.run(TAKE, [keys.allowance(key_id, kind)], [rate, size, wanted, least])
    return float(granted), int(wait) / 1000
