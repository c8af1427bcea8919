"""Which side is better, and what is done about it."""

import pytest

from service.trainer.judging import Losses, Verdict

BETTER = [
    # candidate, live, whether the candidate is better
    (0.1, 0.2, True),
    (0.2, 0.1, False),
    (0.1, 0.1, False),
    (0.0, 0.1, True),
    (0.1, 0.0, False),
    (0.0, 0.0, False),
    (0.1, None, True),  # the live model's is not finite
    (None, 0.1, False),
    (None, None, False),
]


def verdict(candidate: float | None, live: float | None) -> Verdict:
    """A verdict by the prequential losses of both sides; the other measure says the opposite."""
    return Verdict(Losses(live, candidate), Losses(candidate, live))


@pytest.mark.parametrize(("candidate", "live", "better"), BETTER)
def test_the_side_with_the_lower_prequential_loss_is_better(
    candidate: float | None, live: float | None, better: bool
) -> None:
    assert verdict(candidate, live).is_better == better


def test_a_candidate_without_a_live_model_that_compares_is_better() -> None:
    assert Verdict(Losses(1.0, 1.0), None).is_better


def test_only_if_better_asks_for_a_better_candidate() -> None:
    worse, better = verdict(0.2, 0.1), verdict(0.1, 0.2)
    assert worse.refusal("if_better") == "not better than the live model"
    assert better.refusal("if_better") is None
    assert worse.refusal("always") is None
    assert better.refusal("never") == "not asked for"
