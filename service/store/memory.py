"""How full Redis is."""

from service.store.connection import Link


def memory(link: Link) -> tuple[int, int]:
    """Bytes that count towards Redis's `maxmemory`, and `maxmemory` (0: no limit)."""
    lines = link.call("INFO", "memory").decode().splitlines()
    facts = dict(line.split(":", 1) for line in lines if ":" in line)
    used = int(facts["used_memory"]) - int(facts.get("mem_not_counted_for_evict", 0))
    return used, int(facts["maxmemory"])
