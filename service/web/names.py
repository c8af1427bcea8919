"""Names that gunicorn's master needs too. It must import nothing that a worker is to import after it has patched it."""

REQUEST_ID = "X-Request-Id"

LOG_FIELDS = "freshet.log_fields"
"""Where a request's environment has what its line in the access log tells of it."""
