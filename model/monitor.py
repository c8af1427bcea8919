"""What the online path notes for the diagnostics: one float64 vector, part of the model's state.

First the numbers of the whole network, under the names below; then LAYER_COLUMNS numbers for each layer; then for
each unit the step at which it was last seen active.
"""

from model.parameters import Layout

# Averages of the prequential loss: of the last 100 and 1,000 steps, the first 100, and the lowest of the last 100.
RECENT, LONG, FIRST, BEST = range(4)
# Of sampled steps: how much of the row's own loss the step takes away, and the share of steps that raise it.
IMPROVEMENT, OVERSHOOT, SAMPLES = range(4, 7)
# The share of steps that clipping shortened, and the number of steps noted.
CLIPPED, NOTED = 7, 8
TOTALS = 9

# Of each layer: the norm of its weights' gradient, and mean and mean square of its outputs.
GRADIENT, VALUE_MEAN, VALUE_SQUARES = range(3)
LAYER_COLUMNS = 3

SAMPLING = 16  # one step of so many is looked at more closely
RECENT_STEPS, LONG_STEPS = 100.0, 1000.0
SAMPLES_KEPT = LONG_STEPS / SAMPLING
SMALLEST_LOSS = 1e-6  # below it, improvement is noise


def size_of(layout: Layout) -> int:
    return TOTALS + LAYER_COLUMNS * len(layout.layers) + sum(layer.units for layer in layout.layers)
