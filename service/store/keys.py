"""The name of every key and channel. A model's keys share a hash tag, so that they live on one node."""

MODELS = b"freshet:models"  # hash: name -> generation
SIZES = b"freshet:sizes"  # hash: name -> weights and biases of the model
DELETED = b"freshet:deleted"  # sorted set: generations of deleted models, by when
DELETIONS = b"freshet:deletions"  # how many models were deleted
EVENTS = b"freshet:events"  # channel: names of models that were created or deleted
API_KEYS = b"freshet:api-keys"  # hash: id -> an API key, JSON
JOB_NEWS = b"freshet:jobs"  # channel: a job was started, cancelled or given back
WEIGHTS_PATTERN = b"freshet:{*}:weights"
SEEN = 4  # hashes that what was seen is spread over, see lua/include/kept.lua


def _key(name: str, part: str) -> bytes:
    return f"freshet:{{{name}}}:{part}".encode()


def allowance(key_id: str, kind: str) -> bytes:
    """Hash: the token bucket of an API key's requests or observations."""
    return f"freshet:allowance:{key_id}:{kind}".encode()


def meta(name: str) -> bytes:
    """Hash: generation, spec, created, position, commands, bytes, timeline; segment, since (of what was seen); answers,
    answers_bytes; retrain (as it was created with), rebuilt (spec of the newest rebuild),
    job (the current one's id), pin, pinned_at."""
    return _key(name, "meta")


def log(name: str) -> bytes:
    """Stream: everything that changes the model, in order."""
    return _key(name, "log")


def seen(name: str) -> list[bytes]:
    """Hashes that are filled in turn: what was seen of observation ids, tokens and Idempotency-Keys."""
    return [_key(name, f"seen:{slot}") for slot in range(SEEN)]


def answers(name: str) -> list[bytes]:
    """Hashes that are filled in turn: Idempotency-Key -> the answer; of a request that appended nothing, its record."""
    return [_key(name, f"answers:{slot}") for slot in range(2)]


def awaiting(name: str) -> bytes:
    """Hash: `i<id>` -> a prediction that awaits its label."""
    return _key(name, "awaiting")


def awaiting_times(name: str) -> bytes:
    """Sorted set: `i<id>` -> when it was predicted, milliseconds by Redis's clock."""
    return _key(name, "awaiting-times")


def awaiting_counts(name: str) -> bytes:
    """Hash: bytes, remembered, joined, expired, displaced, and how many labels came after which delay."""
    return _key(name, "awaiting-counts")


def lease(name: str) -> bytes:
    """Hash: term, heartbeat counter, published log id, whether someone asks for a republication."""
    return _key(name, "lease")


def snapshot(name: str) -> bytes:
    """Hash: state, step, log id, generation, timeline, term."""
    return _key(name, "snapshot")


def blobs(name: str) -> bytes:
    """Hash: `<log id>:<position>` of a command -> what it names; the log keeps what came after the position."""
    return _key(name, "blobs")


def pieces(name: str) -> bytes:
    """Hash: pieces of large states and blobs, see store/pieces.py."""
    return _key(name, "pieces")


def refusals(name: str) -> bytes:
    """Hash: log id of a command that could not be carried out -> which and why, JSON."""
    return _key(name, "refusals")


def checkpoints(name: str) -> bytes:
    """Hash: checkpoint id -> what it is, JSON."""
    return _key(name, "checkpoints")


def checkpoint_states(name: str) -> bytes:
    """Hash: checkpoint id -> the model's whole state."""
    return _key(name, "checkpoint-states")


def schedule(name: str) -> bytes:
    """Hash: when the model is retrained: schedule (JSON), number of firings, due, from position, best loss."""
    return _key(name, "schedule")


def jobs(name: str) -> bytes:
    """List: ids of the model's jobs, newest first."""
    return _key(name, "jobs")


def job(name: str, job_id: str) -> bytes:
    """Hash: one job: state, request, attempt, beat, progress, result."""
    return _key(name, f"job:{job_id}")


def weights(name: str) -> bytes:
    """Channel: the weights after the newest steps."""
    return _key(name, "weights")


def results(web: str) -> bytes:
    """Channel: the results that one web process waits for."""
    return f"freshet:results:{web}".encode()


def all_of(name: str) -> list[bytes]:
    """Every key of a model, except those of its jobs: meta first, the list of its jobs last."""
    parts = (meta, log, lease, snapshot, awaiting, awaiting_times, awaiting_counts)
    retraining = (blobs, pieces, refusals, checkpoints, checkpoint_states, schedule)
    return [part(name) for part in parts + retraining] + seen(name) + answers(name) + [jobs(name)]
