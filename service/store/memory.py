"""What Redis tells of itself: how full it is, and whether it is the one that it was."""

from service.store.connection import Link


def memory(link: Link) -> tuple[int, int]:
    """Bytes that count towards Redis's `maxmemory`, and `maxmemory` (0: no limit)."""
    facts = _info(link, "memory")
    used = int(facts["used_memory"]) - int(facts.get("mem_not_counted_for_evict", 0))
    return used, int(facts["maxmemory"])


def run_id(link: Link) -> str:
    """The id of this run of Redis: with the same one it has lost nothing, with another it may have."""
    return _info(link, "server")["run_id"]


def _info(link: Link, section: str) -> dict[str, str]:
    lines = link.call("INFO", section).decode().splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)
