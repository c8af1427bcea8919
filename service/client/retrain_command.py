"""`freshet retrain`: starts a retraining and follows it."""

import json
import sys
import time
import uuid
from typing import Any

import click
import urllib3

LOOK = 0.25  # seconds between looks at the job
ENDED = {"succeeded", "failed", "cancelled"}


@click.command(short_help="Retrain a model over its log, and follow it.")
@click.argument("model")
@click.option("--url", default="http://127.0.0.1:8000", show_default=True, help="The server.")
@click.option("--epochs", type=int, help="Passes over the window.")
@click.option("--batch-size", type=click.IntRange(0), help="Rows in a mini-batch; 0 for all at once.")
@click.option("--learning-rate", type=float, help="While it retrains. [default: the model's]")
@click.option("--optimizer", metavar="NAME", help="While it retrains. [default: the model's]")
@click.option("--start", type=click.Choice(["current", "scratch"]), help="The weights to begin with.")
@click.option("--last", metavar="N", type=int, help="Take the last N observations. [default: the whole log]")
@click.option("--since", metavar="TIME", help="Take the observations since a time, in ISO 8601.")
@click.option("--validation", type=float, help="Share of the window, the newest, to judge by.")
@click.option("--seed", type=int, help="Of the order of rows and of dropout.")
@click.option("--patience", type=int, help="Stop after so many epochs without a better validation loss.")
@click.option(
    "--promote", type=click.Choice(["if_better", "always", "never"]), help="Whether it goes live after."
)
@click.option("--wait", default=60.0, show_default=True, help="Seconds to wait for a server that is away.")
@click.option("--detach", is_flag=True, help="Do not follow the job; print its address.")
@click.option("--json", "as_json", is_flag=True, help="Show nothing but the job as it ended, as JSON.")
def retrain(model: str, url: str, wait: float, detach: bool, as_json: bool, **options: Any) -> None:
    """Retrain MODEL in mini-batches over its log, and show the losses of each epoch.

    What is not given has the server's default. The model goes on predicting and learning meanwhile.
    Ctrl-C stops watching; the job goes on.
    """
    client = Client(url, wait)
    job = client.start(model, body(options))
    where = f"{url.rstrip('/')}/v1/jobs/{job['job']}"
    if detach:
        click.echo(where)
        return
    display = Quiet() if as_json else Bar() if sys.stderr.isatty() else Lines()
    try:
        while job["state"] not in ENDED:
            display.update(job)
            time.sleep(LOOK)
            job = client.job(job["job"])
        display.update(job)
    except KeyboardInterrupt:
        raise click.ClickException(f"no longer watching; the job goes on: {where}") from None
    finally:
        display.close()
    click.echo(json.dumps(job) if as_json else summary(job))
    if job["state"] != "succeeded":
        sys.exit(1)


def body(options: dict[str, Any]) -> dict[str, Any]:
    """The request's body: what was given."""
    given = {name: value for name, value in options.items() if value is not None}
    window = {name: given.pop(name) for name in ("last", "since") if name in given}
    if window:
        given["window"] = window
    if given.get("batch_size") == 0:
        given["batch_size"] = None
    return given


def summary(job: dict[str, Any]) -> str:
    """The last line: how it ended."""
    if job["state"] != "succeeded":
        return f"{job['state']}{': ' + job['detail'] if job['detail'] else ''}"
    result = job["result"]
    losses = [
        f"{words} {result[name]:.4f}"
        for name, words in (("validation_loss", "candidate"), ("live_loss", "live model"))
        if result[name] is not None
    ]
    verdict = "promoted" if result["promoted"] else f"not promoted: {result['why']}"
    return f"{verdict}; loss on the validation rows: {', '.join(losses) or 'none'}"


def epoch_text(losses: dict[str, Any]) -> str:
    """An epoch's two losses in words."""
    words = {"loss": losses["loss"], "validation": losses["validation_loss"]}
    told = [f"{word} {loss:.4f}" for word, loss in words.items() if loss is not None]
    return f"epoch {losses['epoch']}: {', '.join(told) or 'loss is not finite'}"


class Client:
    """Speaks to the server, and waits for one that is away."""

    def __init__(self, url: str, wait: float) -> None:
        self._url = url.rstrip("/")
        self._wait = wait
        self._http = urllib3.PoolManager(retries=False, timeout=urllib3.Timeout(connect=5, read=30))

    def start(self, model: str, asked: dict[str, Any]) -> dict[str, Any]:
        """Start the job. Sent again under one key, it is started once."""
        key = {"Idempotency-Key": uuid.uuid4().hex}
        return self._call("POST", f"/v1/models/{model}/retrain", asked, key)

    def job(self, job_id: str) -> dict[str, Any]:
        """The job as it stands."""
        return self._call("GET", f"/v1/jobs/{job_id}")

    def _call(
        self, method: str, path: str, asked: Any = None, headers: dict[str, str] | None = None
    ) -> dict[str, Any]:
        deadline = time.monotonic() + self._wait
        raw = None if asked is None else json.dumps(asked).encode()
        sent = {"Content-Type": "application/json", **(headers or {})}
        while True:
            try:
                answer = self._http.request(method, self._url + path, body=raw, headers=sent)
                if answer.status < 500:
                    break
                problem = f"the server answers {answer.status}"
            except urllib3.exceptions.HTTPError as error:
                problem = f"cannot reach {self._url}: {error}"
            if time.monotonic() > deadline:
                raise click.ClickException(problem)
            time.sleep(0.5)
        return self._read(answer)

    def _read(self, answer: urllib3.BaseHTTPResponse) -> dict[str, Any]:
        try:
            found: dict[str, Any] = answer.json()
        except ValueError:
            raise click.ClickException(f"{self._url} is no Freshet server") from None
        if answer.status >= 400:
            raise click.ClickException(found.get("detail", f"the server answers {answer.status}"))
        return found


class Quiet:
    """Shows nothing."""

    def update(self, job: dict[str, Any]) -> None:
        pass

    def close(self) -> None:
        pass


class Lines:
    """A line for each epoch and each change of stage, for logs."""

    def __init__(self) -> None:
        self._shown = 0
        self._stage = ""

    def update(self, job: dict[str, Any]) -> None:
        stage = job["stage"] or job["state"]
        for losses in job["losses"][self._shown :]:
            click.echo(epoch_text(losses), err=True)
        self._shown = len(job["losses"])
        if stage != self._stage and stage not in ENDED:
            click.echo(stage, err=True)
        self._stage = stage

    def close(self) -> None:
        pass


class Bar:
    """A progress bar over the epochs, with the losses of each above it."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[left]}"),
            console=Console(stderr=True),
        )
        self._task = self._progress.add_task("queued", total=None, left="")
        self._shown = 0
        self._progress.start()

    def update(self, job: dict[str, Any]) -> None:
        for losses in job["losses"][self._shown :]:
            self._progress.console.print(epoch_text(losses), highlight=False)
        self._shown = len(job["losses"])
        left = job["seconds_left"]
        self._progress.update(
            self._task,
            description=job["stage"] or job["state"],
            total=job["epochs"],
            completed=job["epoch"],
            left="" if not left else f"{left:.0f} s left",
        )

    def close(self) -> None:
        self._progress.stop()
