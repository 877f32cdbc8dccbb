"""What the server runs for each verb: one script, so that nothing comes between a question and its effect.

A store ``S`` under the prefix ``P`` has these keys, all with the hash tag ``{P:S}``, so that a cluster keeps them on
one node:

* ``{P:S}``, a hash: ``rev``, the last revision of the store; ``ttl`` in milliseconds, 0 for none; ``watched``, 1 where
  changes are published;
* ``{P:S}:index``, a sorted set of the names of its keys, each with the millisecond in which it expires;
* ``{P:S}:key:NAME``, a hash for each key: ``rev``, ``time`` of writing in microseconds, ``value``. The server expires
  it.

Revisions are kept as text, since Lua writes large numbers as 1.7e+15. Each change is published with the revision
before it, so that a reader sees where one is missing.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Final


@dataclass(frozen=True, slots=True)
class Script:
    """A script by its text, and by the name under which the server keeps it."""

    text: str
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        digest = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()
        object.__setattr__(self, "digest", digest)


OK: Final = b"ok"
CONFLICT: Final = b"conflict"
OTHER_TTL: Final = b"ttl"

ANY: Final = "any"
"""Expected: whatever the present value is."""

NONE: Final = "none"
"""Expected: no such key."""

_NOW = """
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local function text(number) return string.format('%.0f', number) end
"""

_CHECKED = """
local store = redis.call('HMGET', KEYS[1], 'rev', 'ttl', 'watched')
if store[2] and store[2] ~= ARGV[1] then return {'ttl', store[2]} end
local watched = ARGV[2] == '1' or store[3] == '1'
local found = redis.call('HGET', KEYS[3], 'rev')
local expected = ARGV[4]
if expected == 'none' then
    if found then return {'conflict', found} end
elseif expected ~= 'any' and expected ~= found then
    return {'conflict', found}
end
local before = store[1] or '0'
local revision = text(math.max(tonumber(before) + 1, tonumber(found or '0') + 1, now))
local function publish(value)
    if watched then
        local head = table.concat({before, revision, text(now), ARGV[3]}, ' ')
        redis.call('PUBLISH', ARGV[5], head .. value)
    end
end
"""

WRITE = Script(
    _NOW
    + _CHECKED
    + """
redis.call('HSET', KEYS[1], 'rev', revision, 'ttl', ARGV[1])
redis.call('HSET', KEYS[3], 'rev', revision, 'time', text(now), 'value', ARGV[6])
if ARGV[1] == '0' then
    redis.call('ZADD', KEYS[2], '+inf', ARGV[3])
else
    local expires = text(math.ceil(now / 1000) + ARGV[1])
    redis.call('PEXPIREAT', KEYS[3], expires)
    redis.call('ZADD', KEYS[2], expires, ARGV[3])
    redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', '(' .. text(math.floor(now / 1000)))
end
publish('\\n' .. ARGV[6])
return {'ok', revision}
"""
)
"""KEYS: store, index, key. ARGV: TTL, whether watched, name, expected revision, channel, value."""

DELETE = Script(
    _NOW
    + _CHECKED
    + """
if not found then return {'ok', before} end
redis.call('HSET', KEYS[1], 'rev', revision, 'ttl', ARGV[1])
redis.call('DEL', KEYS[3])
redis.call('ZREM', KEYS[2], ARGV[3])
publish('')
return {'ok', revision}
"""
)
"""As for `WRITE`, without a value."""

OPEN = Script(
    _NOW
    + """
local store = redis.call('HMGET', KEYS[1], 'rev', 'ttl', 'watched')
if store[2] and store[2] ~= ARGV[1] then return {'ttl', store[2]} end
if not store[2] then redis.call('HSET', KEYS[1], 'ttl', ARGV[1]) end
if ARGV[2] == '1' and store[3] ~= '1' then redis.call('HSET', KEYS[1], 'watched', '1') end
return {'ok', store[1] or '0', text(now)}
"""
)
"""KEYS: store. ARGV: TTL, whether watched. Answers the store's last revision and the server's clock."""

LIST = Script(
    _NOW
    + """
local names = redis.call('ZRANGEBYSCORE', KEYS[2], text(math.floor(now / 1000)), '+inf')
local found = {redis.call('HGET', KEYS[1], 'rev') or '0'}
for _, name in ipairs(names) do
    if string.sub(name, 1, #ARGV[1]) == ARGV[1] then found[#found + 1] = name end
end
return table.concat(found, ' ')
"""
)
"""KEYS: store, index. ARGV: what the names begin with. Answers one text, as the driver is slow with many: the store's
last revision, then the names."""

READ = Script(
    _NOW
    + """
local found = {text(now)}
for _, key in ipairs(KEYS) do
    local record = redis.call('HMGET', key, 'rev', 'time', 'value')
    found[#found + 1] = record[1] and (record[1] .. ' ' .. record[2] .. '\\n' .. record[3])
end
return found
"""
)
"""KEYS: any number of keys. Answers the server's clock, then one text for each: revision, time of writing, and after a
line feed the value. None = absent."""

PROBE = Script("redis.call('DEL', KEYS[1]) return redis.call('TIME')")
"""KEYS: one that nobody uses. Answers the clock where the server accepts writes; a replica refuses."""
