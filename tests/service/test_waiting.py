"""Results in a web process: each goes to those who wait for it, known by generation and token."""

import numpy as np

from service.store.messages import Result
from service.web.waiting import Waiting


def result(generation: bytes, token: bytes) -> Result:
    return Result(generation, token, 1, np.zeros((1, 1)), np.zeros(1), np.zeros(1, np.bool_))


def test_a_result_goes_to_its_own_model_and_request() -> None:
    waiting = Waiting(4)
    with waiting.waiter(b"one", b"key") as one, waiting.waiter(b"two", b"key") as two:
        waiting.deliver(result(b"two", b"key"))
        waiting.deliver(result(b"one", b"another key"))
        assert one.wait(0.0) is None
        delivered = two.wait(0.0)
        assert delivered is not None
        assert delivered.generation == b"two"
        waiting.deliver(result(b"one", b"key"))
        assert one.wait(0.0) is not None


def test_all_who_wait_for_a_result_get_it() -> None:
    waiting = Waiting(4)
    with waiting.waiter(b"one", b"key") as first, waiting.waiter(b"one", b"key") as second:
        waiting.deliver(result(b"one", b"key"))
        assert first.wait(0.0) is second.wait(0.0) is not None
