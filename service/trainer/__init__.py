"""The trainer: runs retraining jobs."""
