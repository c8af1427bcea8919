"""Names that requests, answers and log lines share."""

REQUEST_ID = "X-Request-Id"

LOG_FIELDS = "freshet.log_fields"
"""Where a request's environment has what its line in the access log tells of it."""
