"""Every counter and histogram of the processes: name, meaning and labels."""

from prometheus_client import Counter, Histogram

OTHERS = "(others)"
"""The label of the models beyond those with a name of their own."""
MOST_LABELS = 1000  # models that a process counts by name

REQUESTS = Histogram(
    "freshet_request_seconds",
    "Time until an answer begins, by route and status.",
    ["route", "status"],
    buckets=(0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10),
)
ROWS = Counter(
    "freshet_feedback_rows",
    "Observations received, by what became of them: appended, duplicate or rejected.",
    ["model", "outcome"],
)
KEY_ROWS = Counter(
    "freshet_key_observations", "Observations learned, by the API key that sent them.", ["key"]
)
KEY_LOSS = Counter(
    "freshet_key_loss", "Sum of the losses of a key's observations, predicted before learning.", ["key"]
)
SNAPSHOTS = Histogram(
    "freshet_snapshot_seconds",
    "Time to write a snapshot, Redis's part included.",
    buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5),
)
PUBLICATIONS = Histogram(
    "freshet_publication_seconds",
    "Time to publish weights.",
    buckets=(0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5),
)
JOBS = Counter(
    "freshet_jobs",
    "Retraining jobs that ended: promoted, refused, not promoted, failed, cancelled.",
    ["outcome"],
)
JOB_SECONDS = Histogram(
    "freshet_job_seconds", "Time that retraining jobs took.", buckets=(1, 5, 20, 60, 300, 1200, 3600, 14400)
)
LOOP_HELD = Histogram(
    "freshet_loop_held_seconds",
    "How long something held a web process's event loop, where it was longer than the watch tolerates.",
    buckets=(0.1, 0.2, 0.5, 1, 2, 5, 10, 30),
)
REDIS_TROUBLES = Counter("freshet_redis_troubles", "What went wrong with Redis, by kind.", ["kind"])

_labels: dict[str, str] = {}


def label_of(model: str) -> str:
    """The label that a model is counted by: its name, or `OTHERS` where this process has named too many."""
    label = _labels.get(model)
    if label is None:
        label = _labels[model] = model if len(_labels) < MOST_LABELS else OTHERS
    return label
