"""Group commit: scripts that fall due together go to Redis as one pipeline, and one sync of the disk does for all."""

import threading
import time
from collections.abc import Sequence
from typing import Any

from service.errors import StoreUnavailable
from service.store.connection import Link, NoScript
from service.store.scripts import Script

MOST = 256  # calls in one pipeline
_NONE = object()  # no answer yet


class _Call:
    """One call and what became of it: its answer, or the error that is to be raised."""

    __slots__ = ("_unsettled", "answer", "arguments", "keys", "leads", "script")

    def __init__(self, script: Script, keys: Sequence[bytes], arguments: Sequence[Any]) -> None:
        self.script, self.keys, self.arguments = script, keys, arguments
        self.answer: Any = _NONE
        self.leads = False  # it is its turn to send what is queued
        self._unsettled = threading.Lock()
        self._unsettled.acquire()

    def wake(self) -> None:
        """Let its caller go on."""
        self._unsettled.release()

    def wait(self, timeout: float = -1) -> bool:
        """Wait to be woken; False if it has not been within `timeout` seconds."""
        return self._unsettled.acquire(timeout=timeout)


class GroupedLink(Link):
    """A link on which many threads run scripts at once: what comes while others are under way is sent together next.

    Each call has an answer and an error of its own. Whoever finds nothing under way sends, for all that are queued by
    then, and hands over to the first of those that came meanwhile.
    """

    def __init__(self, url: str, timeout: float) -> None:
        super().__init__(url, timeout)
        self._queue: list[_Call] = []
        self._changing = threading.Lock()
        self._is_busy = False

    def run(self, script: Script, keys: Sequence[bytes], arguments: Sequence[Any]) -> Any:
        """See Link. Gives up if the call is not sent within the link's timeout."""
        call = _Call(script, keys, arguments)
        with self._changing:
            self._queue.append(call)
            call.leads = not self._is_busy
            self._is_busy = True
        calls: list[_Call] = []
        try:
            if not call.leads:
                self._await(call)
            if call.leads:
                time.sleep(0)  # let all that are ready come along
                calls = self._taken()
                self._send(calls)
        finally:
            self._leave(call, calls)
        if isinstance(call.answer, Exception):
            raise call.answer
        return call.answer

    def _await(self, call: _Call) -> None:
        """Wait until the call is settled, or is to lead."""
        if call.wait(self.timeout):
            return
        with self._changing:
            if call in self._queue and not call.leads:
                self._queue.remove(call)
                call.answer = StoreUnavailable("Redis is busy with what was sent before")
                return
        call.wait()  # it is under way: who sent it gives up in time

    def _taken(self) -> list[_Call]:
        with self._changing:
            calls, self._queue = self._queue[:MOST], self._queue[MOST:]
        return calls

    def _leave(self, call: _Call, sent: list[_Call]) -> None:
        """Let the others go on, whatever became of this one: wake those whose calls it sent, and hand the lead over."""
        with self._changing:
            if call in self._queue:
                self._queue.remove(call)
            if call.leads and self._queue:
                self._queue[0].leads = True
                self._queue[0].wake()
            elif call.leads:
                self._is_busy = False
        for other in sent:
            if other.answer is _NONE:
                other.answer = StoreUnavailable("who sent this was interrupted", sent=True)
            if other is not call:
                other.wake()

    def _send(self, calls: list[_Call]) -> None:
        """Send the calls together and note each one's answer. What was answered before a connection is lost counts."""
        try:
            self.refresh()
            self.send([_command(call) for call in calls])
            for call in calls:
                call.answer = self.answer()
        except StoreUnavailable as error:
            for call in calls:
                call.answer = error if call.answer is _NONE else call.answer
        self._grace = 0.0
        unknown = [call for call in calls if isinstance(call.answer, NoScript)]
        for call in unknown:
            try:
                call.answer = super().run(call.script, call.keys, call.arguments)
            except Exception as error:  # noqa: BLE001 - it is raised where the call was made
                call.answer = error


def _command(call: _Call) -> tuple[Any, ...]:
    return ("EVALSHA", call.script.sha, len(call.keys), *call.keys, *call.arguments)
