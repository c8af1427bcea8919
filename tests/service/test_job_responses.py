"""What clients are told of jobs, whichever version stored them."""

from dataclasses import replace
from typing import Any

from service.store.jobs import Job
from service.web.routes.jobs import to_response

ROWS = {"training": 80, "validation": 20}
JOB = Job(
    model="m",
    id="m.1",
    state="succeeded",
    request={"retrain": {"epochs": 2}, "by": "request"},
    attempt=1,
    created=1.0,
    beat="2.000",
    started=2.0,
    ended=3.0,
    stage="judging",
    progress={"epoch": 2, "epochs": 2, "losses": [], "seconds_left": 0.0},
    result=None,
    detail="",
    cancelled=False,
    log_id=None,
    holder="",
)


def result(candidate: float | None, live: float | None, **verdict: Any) -> dict[str, Any]:
    """A job's result with these prequential losses."""
    losses = [{"validation_loss": 0.5, "prequential_loss": loss} for loss in (candidate, live)]
    return {"rows": ROWS, "candidate": losses[0], "live": losses[1], **verdict}


def test_a_refusal_is_told_with_the_figures_that_decided() -> None:
    refused = result(0.23351, 0.19862, promoted=False, why="not better than the live model")
    told = to_response(replace(JOB, result=refused))
    expected = "refused: not better than the live model: prequential loss 0.2335, live model 0.1986"
    assert told["detail"] == expected


def test_a_job_that_was_not_to_promote_says_so() -> None:
    told = to_response(replace(JOB, result=result(0.1, 0.2, promoted=False, why="not asked for")))
    assert told["detail"] == "not promoted: not asked for"


def test_a_promotion_that_the_learner_refused_is_no_promotion() -> None:
    told = to_response(replace(JOB, result=result(0.1, 0.2, promoted=True, why=None)), "the log lacks rows")
    assert (told["result"]["promoted"], told["detail"]) == (False, "not promoted: the log lacks rows")


def test_a_result_of_version_0_1_is_told_as_now() -> None:
    stored = {"rows": ROWS, "validation_loss": 0.3, "live_loss": 0.2, "promoted": False, "why": "no better"}
    told = to_response(replace(JOB, result=stored, log_id="7-1"))
    assert told["result"] == {
        "rows": ROWS,
        "candidate": {"validation_loss": None, "prequential_loss": 0.3},
        "live": {"validation_loss": None, "prequential_loss": 0.2},
        "promoted": False,
        "why": "no better",
        "log_id": "7-1",
    }
    assert told["detail"] == "not promoted: no better"


def test_stage_and_time_left_are_told_of_a_running_job_only() -> None:
    ended, running = to_response(JOB), to_response(replace(JOB, state="running"))
    assert (ended["stage"], ended["seconds_left"]) == (None, None)
    assert (running["stage"], running["seconds_left"]) == ("judging", 0.0)
