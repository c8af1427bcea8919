"""The learner: the only writer of a model."""
