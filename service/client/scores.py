"""Scores in words."""

from typing import Any

# Each score with the baselines worth a look beside it: (name, how it reads, baselines).
SCORES: dict[str, tuple[str, tuple[str, ...]]] = {
    "log_loss": ("log loss", ("majority",)),
    "accuracy": ("accuracy", ("majority", "no_change")),
    "mae": ("MAE", ("mean", "no_change")),
    "r2": ("R²", ()),
}


def score_text(scores: dict[str, Any]) -> str:
    """Scores in words, each with its baselines."""
    return ", ".join(
        f"{words} {scores[name]:.3f}{_baseline_text(scores.get('baselines', {}), name, baselines)}"
        for name, (words, baselines) in SCORES.items()
        if scores.get(name) is not None
    )


def _baseline_text(values: dict[str, Any], score: str, baselines: tuple[str, ...]) -> str:
    known = [(name, values.get(name, {}).get(score)) for name in baselines]
    texts = [f"{name.replace('_', ' ')} {value:.3f}" for name, value in known if value is not None]
    return f" ({', '.join(texts)})" if texts else ""
