"""The name of every key and channel. A model's keys share a hash tag, so that they live on one node."""

MODELS = b"freshet:models"  # hash: name -> generation
EVENTS = b"freshet:events"  # channel: names of models that were created or deleted
WEIGHTS_PATTERN = b"freshet:{*}:weights"


def _key(name: str, part: str) -> bytes:
    return f"freshet:{{{name}}}:{part}".encode()


def meta(name: str) -> bytes:
    """Hash: generation, spec, created, position, commands, bytes, timeline."""
    return _key(name, "meta")


def log(name: str) -> bytes:
    """Stream: everything that changes the model, in order."""
    return _key(name, "log")


def ids(name: str) -> bytes:
    """Sorted set: observation id -> position."""
    return _key(name, "ids")


def tokens(name: str) -> bytes:
    """Sorted set: an append's token -> position of its entry."""
    return _key(name, "tokens")


def requests(name: str) -> bytes:
    """Hash: Idempotency-Key -> what its request did so far."""
    return _key(name, "requests")


def lease(name: str) -> bytes:
    """Hash: term, heartbeat counter, published log id, whether someone asks for a republication."""
    return _key(name, "lease")


def snapshot(name: str) -> bytes:
    """Hash: state, step, log id, generation, timeline, term."""
    return _key(name, "snapshot")


def weights(name: str) -> bytes:
    """Channel: the weights after the newest steps."""
    return _key(name, "weights")


def results(web: str) -> bytes:
    """Channel: the results that one web process waits for."""
    return f"freshet:results:{web}".encode()


def all_of(name: str) -> list[bytes]:
    """Every key of a model."""
    return [part(name) for part in (meta, log, ids, tokens, requests, lease, snapshot)]
