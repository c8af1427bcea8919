"""The Lua scripts, one file each in `lua/`. Each checks everything first and writes last: Lua has no rollback.

A line `--@include NAME` is replaced by `lua/include/NAME.lua`, which several scripts share.
"""

import hashlib
import re
from functools import cached_property
from importlib import resources

_INCLUDE = re.compile(r"^--@include (\w+)$", re.MULTILINE)


class Script:
    """A script and the name under which the server caches it."""

    def __init__(self, source: str) -> None:
        self.source = source

    @cached_property
    def sha(self) -> str:
        """The name under which the server caches it."""
        return hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()


def include(name: str) -> str:
    """The Lua text that several scripts share."""
    return _read("include", f"{name}.lua")


def _script(name: str) -> Script:
    return Script(_read(f"{name}.lua"))


def _read(*path: str) -> str:
    text = resources.files("service.store").joinpath("lua", *path).read_text("utf-8")
    return _INCLUDE.sub(lambda found: include(found[1]), text)


# Models and who leads them.
CREATE = _script("create")
DELETE = _script("delete")
RESIZE = _script("resize")
LIST = _script("list")
REBUILT = _script("rebuilt")
ACQUIRE = _script("acquire")
BEAT = _script("beat")
RELEASE = _script("release")
REPUBLISH = _script("republish")
NEW_TIMELINE = _script("new_timeline")
RENEW = _script("renew")

# The log and what is kept beside it.
APPEND = _script("append")
COMMAND = _script("command")
ENTRY_SIZES = _script("entry_sizes")
TIME_AFTER = _script("time_after")
SNAPSHOT = _script("snapshot")
SNAPSHOT_PIECE = _script("snapshot_piece")
PIECE = _script("piece")
CHECKPOINT = _script("checkpoint")
REFUSE = _script("refuse")

# What came of requests with a key.
KEEP = _script("keep")
KEEP_ANSWER = _script("keep_answer")
KEPT = _script("kept")

# Predictions that await their label.
REMEMBER = _script("remember")
LOOK_UP = _script("look_up")
EXPIRE = _script("expire")
AWAITING_COUNTS = _script("awaiting_counts")

# Retraining jobs and their schedules.
JOB_START = _script("job_start")
JOB_CLAIM = _script("job_claim")
JOB_BEAT = _script("job_beat")
JOB_FINISH = _script("job_finish")
JOB_GIVE_BACK = _script("job_give_back")
JOB_CANCEL = _script("job_cancel")
JOB_PROMOTE = _script("job_promote")
SCHEDULE_PUT = _script("schedule_put")
SCHEDULE_FIRE = _script("schedule_fire")
SCHEDULE_BEST = _script("schedule_best")
