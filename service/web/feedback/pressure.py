"""Backpressure from Redis's memory: what writes is refused before Redis would refuse it."""

import math
import time
from collections.abc import Callable

from service.errors import Unavailable
from service.store.connection import Link
from service.store.memory import memory

FULL = 0.9  # of maxmemory: from here on nothing is written
LOOK = 1.0  # seconds between looks at Redis's memory
STRIDE = 1 / 64  # of maxmemory: who has written this much looks at once


class Pressure:
    """What one web process knows of Redis's memory. Looks only where something is to be written."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._looked_at = -math.inf
        self._written = 0
        self._stride = math.inf
        self._full = False

    def check(self, link: Link, size: int, make_room: Callable[[], None]) -> None:
        """Refuse to write `size` bytes where Redis is nearly full; `make_room` is called on finding it so.

        Raises Unavailable, StoreUnavailable.
        """
        self._written += size
        now = self._clock()
        if now - self._looked_at >= LOOK or self._written >= self._stride:
            self._looked_at, self._written = now, 0
            used, most = memory(link)
            self._full = most > 0 and used >= FULL * most
            self._stride = STRIDE * most if most else math.inf
            if self._full:
                make_room()
        if self._full:
            raise Unavailable("Redis is short of memory; nothing was written", retry_after=LOOK)
