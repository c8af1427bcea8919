"""What a retraining request and a schedule are."""
