"""How gunicorn serves Freshet: `freshet serve`, `freshet web` and the container all use this file.

    gunicorn -c deploy/gunicorn.conf.py

What can be chosen comes from Freshet's own settings (FRESHET_HOST, FRESHET_WEB_WORKERS, …). What is written
here differs from gunicorn's default for the reason that stands beside it.
"""

from pathlib import Path

from service.settings import load_settings
from service.web import worker

_settings = load_settings()

proc_name = "freshet"  # in lists of processes
wsgi_app = "service.web.app:create_app()"
_address = f"[{_settings.host}]" if ":" in _settings.host else _settings.host
bind = f"{_address}:{_settings.port}"

# A process for each core, an event loop in each process: a request that waits costs a few kilobytes, no thread.
worker_class = "service.web.worker.Worker"
workers = _settings.web_workers
worker_connections = _settings.max_connections
on_starting = worker.on_starting
on_reload = worker.on_reload
worker_exit = worker.worker_exit
child_exit = worker.child_exit

# preload_app stays off: the application starts threads and subscribes to Redis when it is created, and
# neither survives a fork. gunicorn creates it in each worker; the code that it needs is loaded before the fork.
# reuse_port stays off: with a socket for each worker, connections that still wait on it are reset when its
# worker leaves at a reload, and the kernel spreads them by chance. The worker spreads them by count.

# A stream's client comes back within seconds or minutes. gunicorn's 2 s would close the connection under
# it; 75 s outlives the idle time of common proxies (60 s), which must be the first to close.
keepalive = 75

# Requests in flight and streams get this long to end at a stop or a reload; deploy/compose.yaml waits longer.
graceful_timeout = 30

# A worker proves that it lives by touching a file. On a disk that is busy with fsync this can block, and a
# blocked worker is killed: keep the file in memory.
worker_tmp_dir = "/dev/shm" if Path("/dev/shm").is_dir() else None

# The control socket is at one path for each user: two servers would fight over it, and a container with a
# read-only root has no place for it.
control_socket_disable = True

# Nothing here needs more header fields, and each may hold 8 KiB of memory before it is refused.
limit_request_fields = 64

# A client on this machine may not say by a field under which path the application is, or what the path is.
forwarder_headers = ""

# PEM files, read again at a reload.
certfile = str(_settings.tls_certificate) if _settings.tls_certificate else None
keyfile = str(_settings.tls_key) if _settings.tls_key else None

logger_class = "service.web.gunicorn_logger.GunicornLogger"
loglevel = _settings.log_level
accesslog = "-" if _settings.access_log else None
