"""What the routes answer, for the API's description; a test holds every answer of the suite against it.

Hot answers are built by hand, not through these models: `tests/service/test_openapi.py` is what keeps them true.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from model import ModelSpec


class Answer(BaseModel):
    """Base of all answers: no member that is not described."""

    model_config = ConfigDict(extra="forbid")


Step = Annotated[
    int, Field(ge=0, description="the model's position: observations it has taken since it was created")
]
Label = Annotated[str | int | bool, Field(description="a class, as the spec declares it")]
Loss = Annotated[float | None, Field(description="null where it is not defined")]
Score = float | None


class Positioned(Answer):
    """An answer that says how fresh it is."""

    step: Step
    stale: bool = Field(
        description="whether newer weights may have been missed, because Redis does not answer"
    )
    age: float | None = Field(None, description="seconds since Redis answered; only with `stale`")


class FieldError(Answer):
    """One bad field."""

    pointer: str = Field(description="JSON pointer (RFC 6901) to the field, or the name of a header")
    detail: str


class Problem(BaseModel):
    """An error (RFC 9457)."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(description="`about:blank`, or a URN that names the kind of problem")
    title: str
    status: int
    detail: str
    instance: str
    errors: list[FieldError] | None = None
    token: str | None = Field(None, description="Idempotency-Key to send the request again with")
    job: str | None = Field(None, description="address of the job that is under way")


class ProtocolError(Answer):
    """An error, as TensorFlow Serving and the Open Inference Protocol tell it."""

    error: str


class Prediction(Answer):
    """One row's prediction: classes, margins or values."""

    id: str | None = None
    label: Label | None = None
    probabilities: dict[str, float] | None = None
    scores: dict[str, float] | None = None
    value: float | list[float] | None = None


class PredictAnswer(Positioned):
    """Predictions in the order of the rows."""

    model: str
    predictions: list[Prediction]


class RowResult(Answer):
    """What became of one observation."""

    position: int
    prediction: Prediction | None = None
    loss: Loss = None
    duplicate: bool | None = None
    skipped: bool | None = None


class FeedbackAnswer(Answer):
    """What became of the observations of a request."""

    model: str
    step: Step
    position: int = Field(
        description="position of the last observation in the log: a `min_step` for later reads"
    )
    applied: int
    pending: int = Field(description="durable, but not learned yet")
    duplicates: int
    rejected: int
    loss: Loss
    results: list[RowResult] | None = None
    errors: list[dict[str, Any]] | None = Field(None, description="lines of a stream that were refused")
    repeated: bool | None = Field(None, description="the first answer to this Idempotency-Key, again")


class Baseline(Answer):
    """What a trivial predictor would have scored."""

    accuracy: Score = None
    log_loss: Score = None
    mae: float | list[float] | None = None
    rmse: float | list[float] | None = None


class Scores(Answer):
    """Scores over all observations, or over a window that fades."""

    model_config = ConfigDict(extra="allow")

    size: int | None = None
    loss: Score
    log_loss: Score = None
    accuracy: Score = None
    roc_auc: Score = None
    mae: float | list[float] | None = None
    rmse: float | list[float] | None = None
    r2: Score = None
    baselines: dict[Literal["majority", "no_change", "mean"], Baseline]


class Metrics(BaseModel):
    """Prequential scores: each observation was predicted before it was learned."""

    model_config = ConfigDict(extra="allow")

    observations: int
    skipped: int
    total: Scores
    window: Scores
    members: list[dict[str, Any]] = Field(
        [], description="a committee's members: optimizer, weight and fading loss"
    )
    leader: str | None = Field(
        None, description="which member leads since when, in words; null for one network"
    )
    events: int = Field(0, description="drifts, and restarts of members, so far")


class MetricsAnswer(Positioned):
    """A model's scores."""

    model: str
    metrics: Metrics
    late_labels: dict[str, Any] | None = Field(description="how late labels come; null without any")


class DiagnosticsAnswer(Positioned):
    """How the network is doing inside, with advice."""

    model: str
    snapshot_step: int = Field(description="the step of the snapshot that the diagnostics are of")
    diagnostics: dict[str, Any]


class ModelSummary(Positioned):
    """One model of the list."""

    model: str
    task: Literal["binary", "multiclass", "regression"]
    lag: int = Field(description="observations in the log that this process has not seen applied")
    created: float = Field(description="seconds since the epoch")


class ModelList(Answer):
    """All models that the request may see."""

    models: list[ModelSummary]


class Version(Answer):
    """TensorFlow Serving's state of a version."""

    version: str
    state: str
    status: dict[str, str]


class Refusal(BaseModel):
    """A command that was accepted, and could not be carried out when its turn came: it changed nothing."""

    log_id: str
    command: str
    detail: str
    refused: float = Field(description="when, in seconds since the epoch")


class ModelAnswer(ModelSummary):
    """One model."""

    model_config = ConfigDict(extra="allow")

    generation: str = Field(description="another one each time that a model of this name is created")
    timeline: int
    term: int
    has_learner: bool
    trouble: str | None
    parameters: int
    spec: ModelSpec
    metrics: Metrics
    hyperparameters: dict[str, Any] | None
    retrain: dict[str, Any] | None
    job: str | None
    refusals: list[Refusal] | None = Field(description="commands that could not be carried out, oldest first")
    model_version_status: list[Version]


class SideLosses(BaseModel):
    """The losses of one side on the validation rows; null without rows, or if a loss is not finite."""

    validation_loss: Annotated[float | None, Field(description="of the model as it was before all of them")]
    prequential_loss: Annotated[float | None, Field(description="each row predicted, then learned: decides")]


class JobResult(BaseModel):
    """The result of a retraining."""

    rows: dict[str, int]
    candidate: Annotated[SideLosses | None, Field(description="null for an undo")]
    live: SideLosses | None
    promoted: bool
    why: Annotated[str | None, Field(description="why it was not promoted")] = None
    log_id: Annotated[str | None, Field(description="of the promotion in the log")] = None


class EpochLosses(BaseModel):
    """The losses of one epoch: over the training rows as they were met, and on the validation rows after it."""

    epoch: int
    loss: float | None
    validation_loss: float | None


class JobSummary(BaseModel):
    """A retraining job. Times are seconds since the epoch."""

    model_config = ConfigDict(extra="allow")

    job: str
    model: str
    state: Literal["queued", "running", "succeeded", "failed", "cancelled"]
    stage: str | None
    attempt: int
    request: dict[str, Any]
    created: float
    started: float | None
    ended: float | None
    epoch: int
    epochs: int
    seconds_left: float | None
    cancelling: bool
    result: JobResult | None
    detail: Annotated[str | None, Field(description="why it failed, or was not promoted")]


class JobAnswer(JobSummary):
    """A retraining job with the losses of its epochs."""

    losses: list[EpochLosses]


class JobList(BaseModel):
    """A model's newest jobs, newest first."""

    model: str
    jobs: list[JobSummary]


class CheckpointState(BaseModel):
    """One checkpoint."""

    model_config = ConfigDict(extra="allow")

    id: str
    step: int
    bytes: int


class CheckpointList(Answer):
    """A model's checkpoints, oldest first."""

    model: str
    checkpoints: list[CheckpointState]
    bytes: int
    most: int


class CommandAnswer(BaseModel):
    """A command in the log: carried out (200, 201), or durable and to be carried out (202)."""

    model_config = ConfigDict(extra="allow")

    model: str


class Health(BaseModel):
    """How the process is doing."""

    model_config = ConfigDict(extra="allow")

    status: Literal["ok", "degraded", "starting"]


class Tensor(BaseModel):
    """A tensor of the Open Inference Protocol."""

    model_config = ConfigDict(extra="allow")

    name: str
    datatype: str
    shape: list[int]


class InferenceAnswer(Answer):
    """Outputs of the Open Inference Protocol."""

    model_name: str
    model_version: str
    id: str | None = None
    parameters: dict[str, Any]
    outputs: list[Tensor]


class ServingAnswer(Answer):
    """Raw numbers, as TensorFlow Serving answers: `predictions` for rows, `outputs` for columns."""

    predictions: list[list[float]] | None = None
    outputs: list[list[float]] | None = None


class VersionStatus(Answer):
    """TensorFlow Serving's model status."""

    model_version_status: list[Version]


class OpenObject(BaseModel):
    """An object whose members the Open Inference Protocol defines."""

    model_config = ConfigDict(extra="allow")
