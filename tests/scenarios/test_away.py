"""A learner or a Redis that is not there: predictions go on, feedback waits or is refused, and all resumes."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests import oracle
from tests.faults import Part, System, Valkey
from tests.harness import wait_until
from tests.predictions import predicting


def test_feedback_that_waits_without_a_learner_harms_no_prediction(whole: System) -> None:
    learner = whole.start("learner")
    web = whole.start("web", apply_timeout=2)
    name = web.create(oracle.spec())
    oracle.teach(web, name, range(1))
    learner.kill()
    with predicting(web.port, name) as predictions, ThreadPoolExecutor(40) as pool:
        answers = list(pool.map(lambda place: oracle.feed(web.api, name, place), range(1, 201)))
    assert {answer.status for answer in answers} <= {202}
    print(
        f"predictions beside 40 waiting clients: p99 {predictions.p99:.3f} s, of {len(predictions.seconds)}"
    )
    assert predictions.statuses == {200}
    assert predictions.p99 < 1.0
    whole.start("learner")
    web.wait_step(name, 201)
    assert oracle.applications(web.api, name, 202) == [1] * 201 + [0]


@pytest.mark.slow
def test_a_redis_that_is_away_at_the_start_is_waited_for(folder: Path) -> None:
    late = Valkey(folder / "late")
    learner = Part("learner", folder, late.port)
    web = Part("web", folder, late.port)
    try:
        learner.start()
        web.spawn()
        wait_until(lambda: web.readiness() == 503, 20)
        late.start()
        wait_until(lambda: web.readiness() == 200, 20, web.log)
        name = web.create(oracle.spec())
        wait_until(lambda: oracle.feed(web.api, name, 0).status == 200, 20, learner.log)
    finally:
        web.api.close()
        web.kill()
        learner.kill()
        late.kill()


def test_a_lost_subscription_is_logged_and_so_is_its_return(whole: System) -> None:
    web = whole.start("web")
    whole.redis.kill()
    wait_until(lambda: "lost the subscription" in web.log(), 20, whole.log)
    whole.redis.start()
    wait_until(lambda: "the subscription is back" in web.log(), 20, whole.log)
