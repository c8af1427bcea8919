"""TLS: the web server's certificate from files, read again at a reload; Redis by `rediss://`."""

import shutil
import signal
import socket
import ssl
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest
import urllib3

from tests import oracle
from tests.faults import Part, Proxy, system
from tests.harness import FRESHET, Server, wait_until


def certify(folder: Path, name: str) -> None:
    """Write a certificate of its own for 127.0.0.1 and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("certificates are made with openssl")
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        f"/CN={name}",
    ]
    command += ["-addext", "subjectAltName=IP:127.0.0.1"]
    command += ["-keyout", str(folder / "key.pem"), "-out", str(folder / "certificate.pem")]
    subprocess.run(command, check=True, capture_output=True)


def test_the_certificate_is_read_again_at_a_reload(folder: Path) -> None:
    certify(folder, "first")
    files = {"tls_certificate": folder / "certificate.pem", "tls_key": folder / "key.pem"}
    server = Server(folder, web_workers=1, **files)
    server.spawn()
    assert server.process is not None
    try:
        wait_until(lambda: "serving" in server.log(), 60, server.log)
        assert f"https://127.0.0.1:{server.port}" in server.log()
        assert request(server, "PUT", "/v1/models/m", '{"task": "binary", "features": 2}') == 201
        first = certificate(server)
        certify(folder, "second")
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: certificate(server) not in ("", first), 30, server.log)
        # Until it goes, the process before it may accept a connection and show the first one.
        wait_until(lambda: request_or_none(server, "GET", "/v1/models/m") == 200, 30, server.log)
        with pytest.raises(urllib3.exceptions.HTTPError):
            server.api("GET", "/livez")  # plain HTTP
        health = subprocess.run(
            [*FRESHET, "health"],
            env=server.environment | {"FRESHET_PORT": str(server.port)},
            capture_output=True,
        )
        assert health.returncode == 0
        files["tls_key"].write_text("no key")
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "not reloaded" in server.log(), 30, server.log)
        assert request(server, "GET", "/v1/models/m") == 200
        assert "Traceback" not in server.log()
    finally:
        server.api.close()
        assert server.stop() == 0


def test_idle_connections_over_tls_are_ended_without_an_error(folder: Path) -> None:
    certify(folder, "idle")
    files = {"tls_certificate": folder / "certificate.pem", "tls_key": folder / "key.pem"}
    server = Server(folder, web_workers=1, **files)
    server.spawn(GUNICORN_CMD_ARGS="--keep-alive 1")
    try:
        wait_until(lambda: "serving" in server.log(), 60, server.log)
        context = ssl.create_default_context(cafile=str(folder / "certificate.pem"))
        for sent in (b"", b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", b"GET /livez HTTP/1.1\r\nHo"):
            with (
                socket.create_connection(("127.0.0.1", server.port), timeout=30) as plain,
                context.wrap_socket(plain, server_hostname="127.0.0.1") as client,
            ):
                client.sendall(sent)
                received = b""
                with suppress(ssl.SSLError):  # an end without TLS's own farewell
                    while piece := client.recv(4096):
                        received += piece
                assert received.startswith(b"HTTP/1.1 200" if sent.endswith(b"\r\n\r\n") else b"")
                assert received.count(b"HTTP/1.1") == sent.endswith(b"\r\n\r\n")
    finally:
        server.api.close()
        assert server.stop() == 0
    assert "Traceback" not in server.log()


def request(server: Server, method: str, path: str, body: str | None = None) -> int:
    """The status of an answer over TLS, whose certificate is checked."""
    authority = str(server.folder / "certificate.pem")
    with urllib3.PoolManager(ca_certs=authority, retries=False, timeout=20) as pool:
        headers = {"Content-Type": "application/json"}
        return pool.request(
            method, f"https://127.0.0.1:{server.port}{path}", body=body, headers=headers
        ).status


def request_or_none(server: Server, method: str, path: str) -> int | None:
    """The status of an answer; None where the certificate is not the one of the folder."""
    with suppress(urllib3.exceptions.SSLError):
        return request(server, method, path)
    return None


def certificate(server: Server) -> str:
    """The certificate that the server shows; "" if it does not answer now."""
    with suppress(OSError):
        return ssl.get_server_certificate(("127.0.0.1", server.port), timeout=10)
    return ""


def test_a_certificate_that_cannot_be_read_ends_the_start(folder: Path) -> None:
    files = {"tls_certificate": folder / "nowhere.pem", "tls_key": folder / "key.pem"}
    server = Server(folder, web_workers=1, **files)
    server.spawn()
    assert server.process is not None
    assert server.process.wait(60) == 2
    assert "FRESHET_TLS_CERTIFICATE: cannot read" in server.log()
    assert "Traceback" not in server.log()


def server_side(folder: Path) -> ssl.SSLContext:
    """What a server needs to show the folder's certificate."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(folder / "certificate.pem", folder / "key.pem")
    return tls


def test_every_process_speaks_tls_with_redis(folder: Path) -> None:
    certify(folder, "redis")
    with system(folder) as whole:
        secret = Proxy(whole.redis.port, server_side(folder))
        parts = [Part(kind, folder, secret.port) for kind in ("learner", "trainer", "web")]
        for part in parts:
            part.environment["REDIS_URL"] = (
                f"rediss://127.0.0.1:{secret.port}/0?ssl_ca_certs={folder}/certificate.pem"
            )
            whole.parts.append(part.start())
        web = whole.parts[-1]
        name = web.create(oracle.spec())
        oracle.teach(web, name, range(60))
        job = web.api("POST", f"/v1/models/{name}/retrain", {"promote": "always"}).headers["Location"]
        wait_until(lambda: web.api("GET", job).body.get("state") == "succeeded", 60, whole.log)
        secret.close()


def test_a_redis_whose_certificate_is_not_trusted_is_not_spoken_to(folder: Path) -> None:
    certify(folder, "stranger")
    with system(folder) as whole:
        stranger = Proxy(whole.redis.port, server_side(folder))
        learner = Part("learner", folder, stranger.port)
        learner.environment["REDIS_URL"] = f"rediss://127.0.0.1:{stranger.port}/0"
        whole.parts.append(learner.start())
        wait_until(lambda: "certificate verify failed" in learner.log(), 30, learner.log)
        stranger.close()
