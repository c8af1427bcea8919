"""One machine: the supervisor and the embedded server."""
