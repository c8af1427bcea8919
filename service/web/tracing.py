"""Traces by OpenTelemetry: an extra, off by default."""

from importlib.util import find_spec

from flask import Flask

from service.errors import SettingsError
from service.settings import Settings


def install(app: Flask, settings: Settings) -> None:
    """Send a span for each request, where the setting asks for it. Raises SettingsError without the extra."""
    if not settings.otel:
        return
    if find_spec("opentelemetry") is None or find_spec("opentelemetry.instrumentation.flask") is None:
        raise SettingsError("FRESHET_OTEL needs the packages of: pip install freshet[otel]")
    # Imported here: they are an extra, and few pay for them.
    from opentelemetry import trace
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.instrumentation.flask import FlaskInstrumentor
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(resource=Resource.create({"service.name": "freshet"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    FlaskInstrumentor().instrument_app(app, excluded_urls="livez,readyz,metrics")  # type: ignore[no-untyped-call]
