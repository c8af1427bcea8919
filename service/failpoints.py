"""Named places at which a test can end or stop a process: `FRESHET_FAILPOINT=after-append:3,after-step:1:stop`.

The number says which arrival counts. Where the process ends, a file named `failpoint-<place>` stays in the data
folder: a test sees that its failpoint was reached, and no process ends at it again.
"""

import os
import signal
from dataclasses import dataclass
from pathlib import Path

from service.errors import SettingsError
from service.settings import Settings

PLACES = (
    "after-append",  # web: the observations are in the log, the client has no answer
    "after-step",  # learner: the model has learned, nothing is published
    "before-snapshot",  # learner: the state is ready to be kept
    "after-piece",  # any: one piece of a large state or blob is written
    "after-snapshot",  # learner: the state is kept
    "before-promotion",  # learner: the command to promote was read and not carried out
    "after-promotion",  # learner: it was carried out, and nothing is published
    "job-loading",  # trainer: the log is about to be read
    "job-training",  # trainer: an epoch is over
    "job-judging",  # trainer: the training is over
    "job-saving",  # trainer: the candidate has caught up
    "job-promoting",  # trainer: the promote command is about to be appended
)


@dataclass
class _Failpoint:
    left: int  # arrivals until it counts
    signal: signal.Signals
    marker: Path


_active: dict[str, _Failpoint] = {}


def configure(settings: Settings) -> None:
    """Set this process's failpoints. Raises SettingsError if there is no such place."""
    _active.clear()
    for text in (settings.failpoint or "").split(","):
        place, _, rest = text.partition(":")
        count, _, action = rest.partition(":")
        if not text:
            continue
        if place not in PLACES or not count.isdecimal() or action not in ("", "stop"):
            raise SettingsError(f"failpoint: PLACE:NUMBER or PLACE:NUMBER:stop, of {', '.join(PLACES)}")
        marker = settings.data_dir.resolve() / f"failpoint-{place}"
        _active[place] = _Failpoint(int(count), signal.SIGSTOP if action else signal.SIGKILL, marker)


def reach(place: str) -> None:
    """End or stop here, if there is a failpoint here."""
    point = _active.get(place)
    if point is None:
        return
    point.left -= 1
    if point.left > 0:
        return
    try:
        point.marker.touch(exist_ok=False)
    except FileExistsError:
        return
    os.kill(os.getpid(), point.signal)
