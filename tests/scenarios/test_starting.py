"""Starting: `serve` says that it serves when it does, says in one line why it cannot, and runs its own code only."""

import json
import os
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import urllib3

from service.cli import main
from service.host import listening
from service.host.embedded import lock_data_dir
from service.settings import Settings
from tests.harness import Server, clean_environment, free_port, running, wait_until

FRESHET = str(Path(sys.executable).parent / "freshet")  # the console script, as users run it
SPEC = {"task": "binary", "features": 2}


def freshet(*arguments: str, folder: Path, seconds: float = 60, **variables: str) -> tuple[int, str]:
    """The exit status of a command, and what it printed."""
    environment = clean_environment() | variables
    done = subprocess.run(
        [FRESHET, *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=seconds,
    )
    return done.returncode, done.stdout


def test_a_port_that_is_taken_ends_the_start_although_a_stranger_answers_there(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        port = str(stranger.getsockname()[1])
        status, output = freshet("serve", "--port", port, folder=folder)
        alone, said = freshet("web", folder=folder, FRESHET_PORT=port, REDIS_URL="redis://127.0.0.1:1")
    assert status == 2
    assert f"cannot listen on 127.0.0.1 port {port}: another program listens there" in output
    assert "serving" not in output
    assert alone == 2
    assert "another program listens there" in said


@pytest.mark.parametrize(
    ("arguments", "variables", "message"),
    [
        (("--host", "no.such.host.invalid"), {}, "cannot listen on 'no.such.host.invalid'"),
        (("--host", "203.0.113.7"), {}, "this machine does not have that address"),
        (("--host", ""), {}, "FRESHET_HOST: "),
        (("--port", "70000"), {}, "FRESHET_PORT: "),
        (("--data-dir", "/proc/freshet"), {}, "cannot use the data folder /proc/freshet"),
        (("--data-dir", "/dev/null/x"), {}, "cannot use the data folder"),
        (("--redis-url", "foo"), {}, "REDIS_URL is not an address of Redis"),
        (("--redis-url", "redis://h:x/0"), {}, "REDIS_URL is not an address of Redis"),
        (("--redis-url", "redis://h/?timeout=soon"), {}, "REDIS_URL is not an address of Redis"),
        ((), {"FRESHET_PROT": "1"}, "unknown setting FRESHET_PROT; did you mean FRESHET_PORT?"),
        ((), {"FRESHET_MAXMEMORY": "much"}, "FRESHET_MAXMEMORY: "),
        ((), {"FRESHET_LOG_LEVEL": "loud"}, "FRESHET_LOG_LEVEL: "),
        ((), {"FRESHET_TLS_KEY": "key.pem"}, "belong together"),
    ],
    ids=str,
)
def test_a_wrong_option_is_named_in_one_line(
    arguments: tuple[str, ...],
    variables: dict[str, str],
    message: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["freshet", "serve", "--port", "0", *arguments])
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    umask = os.umask(0o022)
    with pytest.raises(SystemExit) as ended:
        main()
    os.umask(umask)
    for number, handler in handlers.items():
        signal.signal(number, handler)
    assert ended.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert message in line


def test_a_name_with_addresses_of_both_kinds_is_bound_where_clients_look_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def both(host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        return [
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", port, 0, 0)),
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)),
        ]

    monkeypatch.setattr(socket, "getaddrinfo", both)
    with listening.bind("localhost", 0) as listener:
        assert listener.getsockname()[0] == "127.0.0.1"


def test_the_reason_is_json_too_if_asked_for(folder: Path) -> None:
    done = freshet("serve", "--port", "70000", folder=folder, FRESHET_LOG_FORMAT="json")
    assert done[0] == 2
    assert "FRESHET_PORT" in json.loads(done[1])["detail"]


def test_a_redis_that_is_not_there_ends_the_start_and_its_password_is_not_printed(folder: Path) -> None:
    patience = "from service.host import supervisor as s; s.REDIS_SECONDS, s.REMINDER = 2.0, 0.5; "
    arguments = ["serve", "--port", "0", "--redis-url", f"redis://:secret@127.0.0.1:{free_port()}/0"]
    done = subprocess.run(
        [sys.executable, "-c", patience + "from service.cli import main; main()", *arguments],
        env=clean_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert "waiting" in done.stdout
    assert "freshet: Redis is not there: cannot connect to Redis" in done.stdout
    assert "secret" not in done.stdout
    assert "Traceback" not in done.stdout


def test_an_embedded_server_that_cannot_start_ends_the_start(folder: Path) -> None:
    (folder / "data" / "appendonlydir").mkdir(parents=True)
    (folder / "data" / "appendonlydir" / "appendonly.aof.manifest").write_text("no manifest\n")
    status, output = freshet("serve", "--port", "0", folder=folder)
    assert status == 2
    assert "freshet: redis does not start" in output
    assert "manifest" in output


def test_modules_of_the_users_in_the_current_folder_are_not_run(folder: Path) -> None:
    """A user's folder holds files that are called as ours are."""
    trap = "from pathlib import Path\nPath('trap').write_text(__name__)\nraise SystemExit('a trap')\n"
    (folder / "service").mkdir()
    for name in ("model.py", "redis.py", "flask.py", "service/__init__.py", "service/cli.py"):
        (folder / name).write_text(trap)
    with Trapped(folder, trainers=1) as server:
        assert server.api("PUT", "/v1/models/m", SPEC).status == 201
        observations = [{"features": [i % 3, i % 2], "label": i % 2} for i in range(100)]
        path = "/v1/models/m/feedback"
        wait_until(
            lambda: server.api("POST", path, {"observations": observations}).status in (200, 202),
            20,
            server.log,
        )
        server.wait_step("m", 100, seconds=60)  # it may have to compile first
        asked = server.api("POST", "/v1/models/m/retrain", {"epochs": 1}, {"Idempotency-Key": "once"})
        while asked.status == 503:
            asked = server.api("POST", "/v1/models/m/retrain", {"epochs": 1}, {"Idempotency-Key": "once"})
        assert asked.status == 202, asked
        job = asked.headers["Location"]
        wait_until(lambda: server.api("GET", job).body.get("state") == "succeeded", 60, server.log)
    assert not (folder / "trap").exists(), (folder / "trap").read_text()


class Trapped(Server):
    """`freshet serve`, run by its console script in the folder itself."""

    def spawn(self, **variables: str) -> None:
        arguments = [FRESHET, "serve", "--port", str(self.port), "--data-dir", "data"]
        with (self.folder / "serve.log").open("ab") as log:
            self.process = subprocess.Popen(
                arguments, cwd=self.folder, env=self.environment | variables, stdout=log, stderr=log
            )

    def __enter__(self) -> "Trapped":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.api.close()
        self.stop()


def test_other_users_cannot_read_the_data(folder: Path) -> None:
    old = folder / "data" / "appendonlydir"
    old.mkdir(parents=True, mode=0o755)
    (folder / "fresh").mkdir()
    with running(folder / "fresh", web_workers=1) as fresh:
        assert fresh.api("PUT", "/v1/models/m", SPEC).status == 201
        assert_private(fresh.data_dir)
    # A folder of version 0.1: what holds observations is closed.
    os.close(lock_data_dir(Settings(data_dir=folder / "data")))
    assert stat.S_IMODE(old.stat().st_mode) == 0o700


def assert_private(folder: Path) -> None:
    paths = [folder, *folder.rglob("*")]
    assert len(paths) > 4
    open_to_others = [str(path) for path in paths if path.stat().st_mode & 0o077]
    assert not open_to_others


def test_every_line_of_the_log_is_json_if_asked_for(folder: Path) -> None:
    with running(folder, log_format="json", access_log=True, web_workers=1, trainers=1) as server:
        assert server.api("PUT", "/v1/models/m", SPEC).status == 201
        trace = {"traceparent": f"00-{'a' * 32}-{'b' * 16}-01", "X-Request-Id": "mine"}
        lesson = {"features": [1, 2], "label": 1}
        assert server.api("POST", "/v1/models/m/feedback", lesson, trace).status in (200, 202)
        os.kill(server.pids("web")[0], 9)
        wait_until(lambda: answered(server), 20, server.log)
    lines = [json.loads(line) for line in server.log().splitlines()]
    assert {line["process"] for line in lines} >= {"serve", "web", "learner", "redis"}
    assert {"serving", "request", "leads"} <= {line["event"] for line in lines}
    assert all({"timestamp", "level"} <= line.keys() for line in lines)
    request = next(line for line in lines if line.get("request_id") == "mine")
    assert (request["event"], request["model"], request["trace_id"]) == ("request", "m", "a" * 32)


def test_standard_files_may_be_closed(folder: Path) -> None:
    server = Server(folder)
    arguments = ["serve", "--port", str(server.port), "--data-dir", str(server.data_dir)]
    closed = ["sh", "-c", 'exec "$0" "$@" <&- >&- 2>&-', FRESHET, *arguments]
    server.process = subprocess.Popen(closed, env=server.environment)
    try:
        wait_until(lambda: answered(server), 60)
    finally:
        server.api.close()
        assert server.stop() == 0


def answered(server: Server) -> bool:
    try:
        return server.api("GET", "/livez").status == 200
    except urllib3.exceptions.HTTPError:
        return False


def test_the_port_stays_taken_while_the_web_processes_start_again(folder: Path) -> None:
    with running(folder, web_workers=1) as server:
        os.kill(server.pids("gunicorn")[0], 9)
        # The connection waits for the processes that come; it is neither refused nor reset.
        assert server.api("GET", "/livez").status == 200
