"""Bytes in Redis per thing that Freshet keeps there, by MEMORY USAGE, on what the scripts themselves have written.

    memory.py [--rows 20000]

Starts a Valkey of its own in a temporary folder and stops it again.
"""

import argparse
import subprocess
import tempfile
import uuid
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from model import ModelSpec, OnlineModel
from service.host import embedded
from service.settings import Settings, redis_url
from service.store import keys, models
from service.store.appending import Append, Limits
from service.store.blocks import Block
from service.store.connection import Link
from service.store.kept import BlockRecord
from service.store.model_store import ModelStore
from service.web.idempotency import new_key

SPEC = {"task": "binary", "features": 20, "layers": [{"units": 64}, {"units": 32}]}
NAME = "m"
LIMITS = Limits(dedup_window=10**9, max_lag=10**9, label_ttl_ms=10**9)


class Sample:
    """A model in a Redis of its own, and how much its keys take."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.spec = ModelSpec.model_validate(SPEC)
        self.restart()

    def restart(self) -> None:
        """An empty Redis with a new model."""
        self.link.call("FLUSHALL", "SYNC")
        _, self.generation = models.create(self.link, NAME, self.spec.model_dump_json().encode())
        self.store = ModelStore(self.link, NAME, self.generation)

    def bytes_of(self, *of: bytes) -> int:
        """What some keys take."""
        return sum(self.link.call("MEMORY", "USAGE", key, "SAMPLES", 0) or 0 for key in of)

    def append(self, rows: int, ids: list[str] | None = None, key: str | None = None) -> None:
        """Append a block of random rows."""
        token = (key or new_key()).encode()
        features = np.random.default_rng(0).normal(size=(rows, 20))
        block = Block(features, np.ones((rows, 1)), ids=list(ids) if ids else None)
        record = BlockRecord(token[:16].ljust(16, b"0"), 0)
        self.store.log.append(Append(token, block, token, record.to_bytes()), LIMITS)


def measured(sample: Sample, rows: int) -> list[tuple[str, float]]:
    """Bytes per thing."""
    found = []

    def tell(thing: str, taken: float, count: int) -> None:
        found.append((thing, taken / count))
        sample.restart()

    for block in (1, 100, 1000):
        for _ in range(max(1, rows // block)):
            sample.append(block)
        count = block * max(1, rows // block)
        tell(
            f"observation in the log, 20 features, {block} a request", sample.bytes_of(keys.log(NAME)), count
        )
    for _ in range(rows):
        sample.append(1)
    tell("request without id or key, remembered", sample.bytes_of(*keys.seen(NAME)), rows)
    for kind, length in (("of 8 characters", 8), ("of 36 characters (UUID)", 36)):
        for start in range(0, rows, 1000):
            sample.append(1000, [str(uuid.UUID(int=(start + row) * 7919))[-length:] for row in range(1000)])
        tell(f"observation id {kind}, remembered", sample.bytes_of(*keys.seen(NAME)), rows)
    for _ in range(rows // 10):
        key = str(uuid.uuid4())
        sample.append(1, key=key)
        sample.store.kept.keep_answer(key.encode(), b"x" * 300, 10**9)
    found.append(
        ("answer to one observation, kept with its key", sample.bytes_of(*keys.answers(NAME)) / (rows // 10))
    )
    tell("Idempotency-Key of 36 characters, remembered", sample.bytes_of(*keys.seen(NAME)), rows // 10)
    for start in range(0, rows, 1000):
        ids = [str(uuid.UUID(int=(start + row) * 7919)) for row in range(1000)]
        sample.store.awaiting.remember(
            *(ids, 0, np.ones((1000, 20)), np.ones((1000, 1))),
            label_ttl_ms=10**9,
            label_bytes=10**9,
        )
    counted = int(sample.link.call("HGET", keys.awaiting_counts(NAME), "bytes")) / rows
    tell("prediction that awaits its label, 20 features, id of 36", _awaiting(sample), rows)
    found.append(("  of which its id and value, as the script counts them", counted))
    state = OnlineModel(sample.spec).to_bytes()
    sample.link.call("HSET", keys.snapshot(NAME), "generation", sample.generation, "state", state)
    tell("snapshot, 20-64-32-1 (a checkpoint takes the same)", sample.bytes_of(keys.snapshot(NAME)), 1)
    tell("model without any observation", sample.bytes_of(*keys.all_of(NAME)), 1)
    return found


def _awaiting(sample: Sample) -> int:
    return sample.bytes_of(keys.awaiting(NAME), keys.awaiting_times(NAME))


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description="Bytes in Redis per thing that is kept there.")
    parser.add_argument("--rows", type=int, default=20_000)
    rows = parser.parse_args().rows
    with tempfile.TemporaryDirectory(prefix="freshet-") as folder:
        settings = Settings(data_dir=Path(folder), appendfsync="everysec")
        server = subprocess.Popen(embedded.command(settings), stderr=subprocess.DEVNULL)
        try:
            embedded.wait_until_ready(settings, 20)
            found = measured(Sample(Link(redis_url(settings), 30)), rows)
        finally:
            server.terminate()
            server.wait()
    table = Table("thing", "bytes each")
    for thing, taken in found:
        table.add_row(thing, f"{taken:,.0f}")
    Console().print(table)


if __name__ == "__main__":
    main()
