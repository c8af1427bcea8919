"""OpenTelemetry: spans reach a collector and belong to the client's trace."""

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

from tests.harness import running, wait_until

TRACE = "0af7651916cd43dd8448eb211c80319c"


class Collector(BaseHTTPRequestHandler):
    """Keeps what is sent to it."""

    received = b""

    def do_POST(self) -> None:
        Collector.received += self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing."""


def test_a_request_is_a_span_of_the_clients_trace(folder: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    collector = HTTPServer(("127.0.0.1", 0), Collector)
    thread = threading.Thread(target=collector.serve_forever)
    thread.start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{collector.server_port}")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "none")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
    try:
        with running(folder, web_workers=1, otel=True) as server:
            server.api("GET", "/v1/models", None, {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"})
            wait_until(lambda: bytes.fromhex(TRACE) in Collector.received, 20, server.log)
            assert b"/v1/models" in Collector.received
    finally:
        collector.shutdown()
        thread.join()
        collector.server_close()
