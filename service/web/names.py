"""Names that gunicorn's master needs too. It must import nothing that a worker is to import after it has patched it."""

REQUEST_ID = "X-Request-Id"
