"""What the online path notes for the diagnostics: one float64 vector, part of the model's state.

First the numbers of the whole network, under the names below; then LAYER_COLUMNS numbers for each layer; then for
each unit the step at which it was last seen active. A promotion, a rollback and an upload clear them. A value beyond
LARGEST_NOTE is not noted: the next step clears all notes and counts one reset.
"""

import numpy as np
from numpy.typing import NDArray

from model.parameters import Layout

# Averages of the prequential loss: of the last 100 and 1,000 steps, the first 100, and the lowest of the last 100.
RECENT, LONG, FIRST, BEST = range(4)
# Of sampled steps: how much of the row's own loss the step takes away, and the share of steps that raise it.
IMPROVEMENT, OVERSHOOT, SAMPLES = range(4, 7)
# The share of steps that clipping shortened, and the number of steps noted.
CLIPPED, NOTED = 7, 8
# Whether a value was too large to note, how often the notes were cleared for one, and the step at which they began.
OVERFLOW, RESETS, BEGAN = range(9, 12)
TOTALS = 12

# Of each layer: the norm of its weights' gradient, and mean and mean square of its outputs.
GRADIENT, VALUE_MEAN, VALUE_SQUARES = range(3)
LAYER_COLUMNS = 3

SAMPLING = 16  # one step of so many is looked at more closely
RECENT_STEPS, LONG_STEPS = 100.0, 1000.0
SAMPLES_KEPT = LONG_STEPS / SAMPLING
SMALLEST_LOSS = 1e-6  # below it, improvement is noise
LARGEST_NOTE = 1e100  # beyond it nothing is averaged: squares and sums stay finite


def size_of(layout: Layout) -> int:
    return TOTALS + LAYER_COLUMNS * len(layout.layers) + sum(layer.units for layer in layout.layers)


def clear(notes: NDArray[np.float64], step: int) -> None:
    """Reset all notes at `step`, in place."""
    notes[:] = 0.0
    notes[BEGAN] = step
