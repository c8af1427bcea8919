"""The web process: HTTP in, predictions and appends out."""
