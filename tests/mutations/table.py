"""Faults that tests must find: each takes one fence, order or option out of the code.

`search` occurs once in `file`; blanks and line breaks in it match any others. `tests` are the quickest files that find
the fault. `make mutate` applies each to a copy and runs them. Those in SIMULATED are found by simulation alone, too:
`tests/simulation/mutations.py`.
"""

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
LUA = "service/store/lua/"
STORE = "tests/service/test_store.py"
JOBS = "tests/service/test_jobs_stored.py"
LOG = "tests/service/test_log_stored.py"
VERSIONS = "tests/service/test_versions.py"
SCHEDULES = "tests/service/test_schedules.py"
TRAINING = "tests/service/test_training.py"
LISTED = "tests/service/test_models_listed.py"


LEADS = "if not leads(meta, lease, generation, term) then return 'lost' end"


class Mutation(NamedTuple):
    """One fault."""

    name: str
    file: str
    search: str
    replacement: str
    tests: str

    def applied(self, root: Path = ROOT) -> str:
        """The file's text with the fault. Raises ValueError if `search` does not occur once."""
        pattern = r"\s+".join(map(re.escape, self.search.split()))
        text, count = re.subn(pattern, lambda _: self.replacement, (root / self.file).read_text("utf-8"))
        if count != 1:
            raise ValueError(f"{self.name}: what it searches for occurs {count} times in {self.file}")
        return text


MUTATIONS = [
    # -- what a learner writes
    Mutation("snapshot without the term's check", f"{LUA}snapshot.lua", LEADS, "", STORE),
    Mutation("checkpoint without the term's check", f"{LUA}checkpoint.lua", LEADS, "", STORE),
    Mutation("rebuild noted without the term's check", f"{LUA}rebuilt.lua", LEADS, "", STORE),
    Mutation(
        "heartbeat without the term's check", f"{LUA}beat.lua", "or known[1] ~= term then", "then", STORE
    ),
    Mutation(
        "new timeline without the term's check",
        f"{LUA}new_timeline.lua",
        "if not leads(meta, lease, generation, term) then return 0 end",
        "",
        STORE,
    ),
    Mutation(
        "older snapshot over a newer one",
        f"{LUA}snapshot.lua",
        "and is_before(log_id, stored[3]) then return 'stale' end",
        "and false then return 'stale' end",
        STORE,
    ),
    Mutation(
        "state of another log kept",
        f"{LUA}include/history.lua",
        "return token == '' or entry[2][field + 1] == token",
        "return true",
        STORE,
    ),
    Mutation(
        "snapshot of another log",
        f"{LUA}snapshot.lua",
        "if not is_of_this_log(meta, log, timeline, log_id, token) then return 'stale' end",
        "",
        STORE,
    ),
    Mutation(
        "published log id goes back", f"{LUA}beat.lua", "is_before(published, known[7])", "false", STORE
    ),
    Mutation(
        "older rebuild noted over a newer one",
        f"{LUA}rebuilt.lua",
        "if is_before(log_id, known) then return 'stale' end",
        "",
        STORE,
    ),
    Mutation(
        "lead taken though the heartbeat moved",
        f"{LUA}acquire.lua",
        "or (known[2] or '0') ~= seen_counter then return 0 end",
        "then return 0 end",
        STORE,
    ),
    # -- what is trimmed
    Mutation(
        "trim ignores a promotion that is to come",
        f"{LUA}snapshot.lua",
        "trim = math.min(trim, tonumber(from))",
        "",
        LOG,
    ),
    Mutation(
        "trim past the snapshot",
        f"{LUA}snapshot.lua",
        "string.format('%.0f', trim)",
        "string.format('%.0f', trim + 20)",
        LOG,
    ),
    Mutation("trim ignores a job's pin", f"{LUA}snapshot.lua", "trim = pin end", "end", JOBS),
    Mutation(
        "a job's pin holds any number of bytes",
        f"{LUA}snapshot.lua",
        "and size_from(trim_below) - size_from(string.format('%.0f', pin)) <= tonumber(keep_bytes) then",
        "then",
        JOBS,
    ),
    # -- what a client appends
    Mutation(
        "append without the generation's check",
        f"{LUA}append.lua",
        "if model[1] ~= generation then return {'gone'} end",
        "",
        LOG,
    ),
    Mutation(
        "append without the key's check",
        f"{LUA}append.lua",
        "if known and known ~=",
        "if false and known ~=",
        LOG,
    ),
    Mutation(
        "append without the observation ids' check",
        f"{LUA}append.lua",
        "if #duplicates > 1 then return duplicates end",
        "",
        LOG,
    ),
    Mutation(
        "append to a log that came back older",
        f"{LUA}append.lua",
        "(timeline == known_timeline and before < known_step)",
        "false",
        LOG,
    ),
    Mutation(
        "command without the key's check",
        f"{LUA}command.lua",
        "if known then return {'seen', known} end",
        "",
        "tests/service/test_lost_replies.py::test_a_command_whose_end_is_not_known_is_settled_by_the_token_too",
    ),
    Mutation(
        "a refusal is final though a try is under way",
        "service/web/feedback/submit.py",
        "request.is_unknown = request.is_unknown or error.sent",
        "request.is_unknown = False",
        "tests/service/test_lost_replies.py",
    ),
    Mutation("append without a bound", f"{LUA}append.lua", "if lag >= max_lag then", "if false then", LOG),
    Mutation(
        "late deletion of another generation",
        f"{LUA}delete.lua",
        "if known and known ~= generation then return 0 end",
        "",
        LISTED,
    ),
    Mutation(
        "late creation of a deleted model",
        f"{LUA}create.lua",
        "~= seen_deletions then return {'again'} end",
        "~= seen_deletions and false then return {'again'} end",
        LISTED,
    ),
    Mutation(
        "a created model is not listed",
        f"{LUA}create.lua",
        "redis.call('HSET', models, name, generation)",
        "",
        LISTED,
    ),
    # -- jobs
    Mutation("job without the attempt's check", f"{LUA}include/job.lua", "and known[1] == attempt", "", JOBS),
    Mutation(
        "job without its id's check",
        f"{LUA}include/job.lua",
        "redis.call('HGET', meta, 'job') == id and",
        "",
        JOBS,
    ),
    Mutation(
        "job claimed twice",
        f"{LUA}job_claim.lua",
        "if not is_mine(meta, job, id, attempt, state) or redis.call('HGET', job, 'beat') ~= beat then",
        "if redis.call('HGET', meta, 'job') ~= id then",
        JOBS,
    ),
    Mutation(
        "running job claimed though its heartbeat moved",
        f"{LUA}job_claim.lua",
        "or redis.call('HGET', job, 'beat') ~= beat then",
        "then",
        JOBS,
    ),
    Mutation(
        "a job's deaths are not counted",
        f"{LUA}include/job.lua",
        "if deaths >= DEATHS then",
        "if false then",
        JOBS,
    ),
    Mutation(
        "promotion without the generation's check",
        f"{LUA}job_promote.lua",
        "if model[1] ~= generation or not is_mine",
        "if not is_mine",
        JOBS,
    ),
    Mutation(
        "promotion without the job's check",
        f"{LUA}job_promote.lua",
        "or not is_mine(meta, job, id, attempt, 'running') then return {'late'} end",
        "then return {'late'} end",
        JOBS,
    ),
    Mutation(
        "cancelled job promoted",
        f"{LUA}job_promote.lua",
        "if redis.call('HGET', job, 'cancel') then",
        "if false then",
        JOBS,
    ),
    Mutation(
        "promotion over weights that were replaced",
        f"{LUA}job_promote.lua",
        "if is_before(read, field) then return {'behind'} end",
        "",
        JOBS,
    ),
    Mutation(
        "promotion over another log",
        f"{LUA}job_promote.lua",
        "if found ~= read_token then return {'gone'} end",
        "",
        JOBS,
    ),
    Mutation(
        "promotion of a candidate far behind",
        f"{LUA}job_promote.lua",
        "> tonumber(behind) then return {'behind'} end",
        "> 1e9 then return {'behind'} end",
        JOBS,
    ),
    Mutation(
        "schedule fired twice",
        f"{LUA}schedule_fire.lua",
        "if known[1] ~= number or known[2] ~= text then return 0 end",
        "",
        SCHEDULES,
    ),
    Mutation(
        "schedule fired beside a running job",
        f"{LUA}schedule_fire.lua",
        "or model[2] then return 0 end",
        "then return 0 end",
        SCHEDULES,
    ),
    Mutation(
        "loss judged before it has settled",
        "service/jobs/schedules.py",
        "if standing.loss is None or standing.position - self.stored.start < SETTLING:",
        "if standing.loss is None:",
        SCHEDULES,
    ),
    Mutation(
        "a loss of 0 is no loss",
        "service/trainer/judging.py",
        "return candidate is not None and (live is None or candidate < live)",
        "return (candidate or float('inf')) < (live or float('inf'))",
        "tests/service/test_judging.py",
    ),
    Mutation("retraining ignores its seed", "service/trainer/job.py", "seed=self.asked.seed,", "", TRAINING),
    Mutation(
        "retraining ignores its batch size",
        "service/trainer/job.py",
        "batch_size=self.asked.batch_size,",
        "",
        TRAINING,
    ),
    Mutation(
        "retraining ignores its optimizer",
        "service/trainer/job.py",
        "if self.asked.optimizer is not None:",
        "if False:",
        TRAINING,
    ),
    Mutation(
        "retraining ignores its patience",
        "service/trainer/progress.py",
        "return self._waited < self._asked.patience",
        "return True",
        TRAINING,
    ),
    Mutation(
        "candidate judged at another learning rate",
        "service/trainer/job.py",
        "candidate.continue_schedule(live)",
        "pass",
        TRAINING,
    ),
    # -- what a learner and a web process apply
    Mutation(
        "learner misses a gap in the log",
        "service/learner/led_model.py",
        "if not self.learned and not follows(self.log_id, entry):",
        "if False:",
        LOG,
    ),
    Mutation(
        "learner misses a missing command",
        "service/store/entries.py",
        "return entry.log_id == (log_id.position, log_id.command + 1)",
        "return True",
        LOG,
    ),
    Mutation(
        "learner goes on with an older Redis",
        "service/learner/learner.py",
        "elif self._is_older(led, found[0]):",
        "elif False:",
        "tests/scenarios/test_older_redis.py",
    ),
    Mutation(
        "a command that cannot be obeyed stops the learner",
        "service/learner/led_model.py",
        "except CommandRefused as error:",
        "except ZeroDivisionError as error:",
        "tests/service/test_refused_commands.py",
    ),
    Mutation(
        "learner applies another model's entries",
        "service/learner/led_model.py",
        "if not self.generation.startswith(entry.generation):",
        "if False:",
        LOG,
    ),
    Mutation(
        "web process takes an older state",
        "service/web/replicas/replica.py",
        "version.order <= now.order or",
        "version.order == now.order or",
        VERSIONS,
    ),
    Mutation(
        "web process takes the state of an older term",
        "service/web/replicas/replica.py",
        "version.timeline == now.timeline and version.term < now.term",
        "False",
        VERSIONS,
    ),
    Mutation(
        "results known by their token alone",
        "service/web/waiting.py",
        "self._receivers.pop((result.generation, result.token), [])",
        "next((self._receivers.pop(key) for key in list(self._receivers) if key[1] == result.token), [])",
        "tests/service/test_waiting.py",
    ),
    # -- the model
    Mutation(
        "fit ignores its seed",
        "model/fitting.py",
        "order = np.random.default_rng(self._seed)",
        "order = np.random.default_rng(0)",
        "tests/model/test_online.py",
    ),
    Mutation(
        "fit ignores class weights",
        "model/fitting.py",
        "weights = self._with_class_weights(labels, weights)",
        "",
        "tests/model/test_paths.py",
    ),
    Mutation(
        "a successor begins the schedule anew",
        "model/online.py",
        'self._arrays["counters"][:, SCHEDULED] = predecessor._arrays["counters"][:, SCHEDULED]',
        "pass",
        "tests/model/test_successors.py",
    ),
    Mutation(
        "adopting keeps the old optimizer's slots",
        "model/online.py",
        'self._arrays["slots"][number, :slots] = other._arrays["slots"][number, :slots]',
        "pass",
        "tests/model/test_successors.py",
    ),
    Mutation(
        "a state of another shape is loaded",
        "model/state.py",
        "if values.dtype != dtype or values.shape != shape:",
        "if values.dtype != dtype:",
        "tests/model/test_state.py",
    ),
]

SIMULATED = {
    "snapshot without the term's check",
    "older snapshot over a newer one",
    "snapshot of another log",
    "trim ignores a promotion that is to come",
    "trim past the snapshot",
    "append without the key's check",
    "append without the observation ids' check",
    "append without the generation's check",
    "append to a log that came back older",
    "command without the key's check",
    "late deletion of another generation",
    "late creation of a deleted model",
    "a created model is not listed",
    "cancelled job promoted",
    "promotion over weights that were replaced",
    "results known by their token alone",
    "web process takes an older state",
    "learner goes on with an older Redis",
    "a refusal is final though a try is under way",
    "a command that cannot be obeyed stops the learner",
    "learner misses a gap in the log",
}
"""Names of the faults that `tests/simulation/mutations.py` looks for."""
