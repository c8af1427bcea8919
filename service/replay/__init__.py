"""What turns a snapshot and a log into a state."""
