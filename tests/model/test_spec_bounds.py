"""Every number, text and list of a spec is bounded, and every spec that is accepted can be built."""

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from model import FeatureEncoder, LabelEncoder, ModelSpec, OnlineModel, Predictor, RowError
from model.feature_spec import FeatureSpec
from model.optimizer_spec import OPTIMIZER_DEFAULTS, SCHEDULE_OF, OptimizerSpec, ScheduleSpec
from model.spec import COMBINATIONS, LayerSpec
from model.strict import LARGEST_INT

BOUNDS = {
    "integer": (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")),
    "number": (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")),
    "string": (("enum", "const", "maxLength"),),
    "array": (("maxItems",),),
}


def unbounded(schema, place=""):
    """The places in a JSON schema where a number, text or list has no bound."""
    if isinstance(schema, list):
        return [found for index, part in enumerate(schema) for found in unbounded(part, f"{place}/{index}")]
    if not isinstance(schema, dict):
        return []
    missing = [
        one for one in BOUNDS.get(str(schema.get("type")), ()) if not any(name in schema for name in one)
    ]
    here = [place] if missing else []
    parts = ((name, part) for name, part in schema.items() if name not in ("default", "enum"))
    return here + [found for name, part in parts for found in unbounded(part, f"{place}/{name}")]


@pytest.mark.parametrize("part", [ModelSpec, FeatureSpec, LayerSpec, OptimizerSpec, ScheduleSpec])
def test_every_number_text_and_list_has_bounds(part):
    assert unbounded(part.model_json_schema()) == []


def test_a_missing_bound_is_found():
    assert unbounded({"properties": {"n": {"type": "integer", "minimum": 0}}}) == ["/properties/n"]


HUGE = 10**309
TOO_LARGE = [
    {"optimizer": {"schedule": {"name": "cosine", "steps": HUGE}}},
    {"optimizer": {"schedule": {"warm_up": HUGE}}},
    {"optimizer": {"schedule": {"name": "inverse_time", "decay": HUGE}}},
    {"optimizer": {"learning_rate": HUGE}},
    {"keep": HUGE},
    {"keep_bytes": HUGE},
    {"seed": HUGE},
    {"classes": [0, HUGE]},
    {"classes": ["a", "b" * 300]},
    {"classes": ["a", "\ud800"]},
    {"features": [{"name": "a" * 129}]},
    {"features": [{"name": "\udfff"}]},
    {"features": [{"name": "a", "kind": "category", "values": [-HUGE]}]},
    {"features": [{"name": "a", "kind": "category", "values": ["b" * 8193]}]},
    {"features": [{"name": "a", "kind": "hash", "buckets": HUGE}]},
    {"layers": [{"units": HUGE}]},
]


@pytest.mark.parametrize("fields", TOO_LARGE, ids=lambda fields: repr(fields)[:50])
def test_a_number_or_text_beyond_its_bounds_is_refused(fields):
    with pytest.raises(ValidationError) as caught:
        ModelSpec.model_validate({"task": "binary", "features": 1, **fields})
    assert len(caught.value.errors()) == 1


NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=64)
CLASSES = st.one_of(
    st.lists(st.integers(-(2**63), 2**63 - 1), min_size=2, max_size=3, unique=True),
    st.lists(NAMES, min_size=2, max_size=3, unique=True),
)
FEATURES = st.one_of(
    st.fixed_dictionaries({"kind": st.sampled_from(["number", "boolean"]), "indicator": st.booleans()}),
    st.fixed_dictionaries(
        {
            "kind": st.just("category"),
            "values": st.lists(
                st.one_of(st.integers(-(2**63), 2**63 - 1), NAMES), min_size=1, max_size=3, unique=True
            ),
        }
    ),
    st.fixed_dictionaries({"kind": st.just("hash"), "buckets": st.sampled_from([1, 7, 1000])}),
)
SHARES = st.sampled_from([0.0, 5e-324, 0.5, 1 - 2**-53])
NOT_NEGATIVE = st.sampled_from([0.0, 5e-324, 1.0, 1e6])
COUNTS = st.sampled_from([1, 2, LARGEST_INT])
SCHEDULES = {
    "constant": {},
    "inverse_time": {"decay": NOT_NEGATIVE},
    "exponential": {"gamma": st.sampled_from([5e-324, 0.5, 1.0])},
    "cosine": {"steps": COUNTS, "minimum": st.sampled_from([0.0, 1.0])},
}
VALUES = {
    "momentum": SHARES,
    "dampening": SHARES,
    "alpha": SHARES,
    "betas": st.tuples(SHARES, SHARES),
    "eps": st.sampled_from([1e-12, 1.0]),
    "centered": st.booleans(),
    "lr_decay": NOT_NEGATIVE,
    "weight_decay": NOT_NEGATIVE,
    "initial_accumulator_value": NOT_NEGATIVE,
}


@st.composite
def accepted_specs(draw):
    task = draw(st.sampled_from(sorted(COMBINATIONS)))
    loss, _ = draw(st.sampled_from(COMBINATIONS[task]))
    schedule = draw(st.sampled_from(sorted(SCHEDULES)))
    name = draw(st.sampled_from(sorted(OPTIMIZER_DEFAULTS)))
    own = {field: values for field, values in VALUES.items() if field in OPTIMIZER_DEFAULTS[name]}
    fields = {
        "task": task,
        "loss": loss,
        "features": [
            {"name": f"f{place}", **feature}
            for place, feature in enumerate(draw(st.lists(FEATURES, min_size=1, max_size=3)))
        ],
        "layers": draw(
            st.lists(
                st.fixed_dictionaries(
                    {"units": st.integers(1, 3), "dropout": SHARES, "batch_norm": st.booleans()}
                ),
                max_size=2,
            )
        ),
        "optimizer": {
            "name": name,
            "learning_rate": draw(NOT_NEGATIVE),
            "l1": draw(NOT_NEGATIVE),
            "l2": draw(NOT_NEGATIVE),
            "clip_norm": draw(st.sampled_from([None, 5e-324, 1e6])),
            "schedule": {
                "name": schedule,
                "warm_up": draw(COUNTS),
                **{field: draw(values) for field, values in SCHEDULES[schedule].items()},
            },
            **{field: draw(values) for field, values in own.items()},
        },
        "scaling": draw(st.sampled_from(["standard", "minmax", "none"])),
        "seed": draw(st.sampled_from([0, 2**63 - 1])),
        "keep": draw(COUNTS),
        "keep_bytes": draw(COUNTS),
    }
    if task == "multiclass":
        fields["classes"] = draw(CLASSES)
    if task == "regression":
        fields["targets"] = draw(st.sampled_from([1, 3]))
    return fields


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(accepted_specs())
def test_every_accepted_spec_is_built_saved_and_used(fields):
    spec = ModelSpec.model_validate(fields)
    assert ModelSpec.model_validate_json(json.dumps(fields)) == spec
    model = OnlineModel(spec)
    rows = FeatureEncoder(spec).encode([[None] * len(spec.feature_list)])
    LabelEncoder(spec).decode(Predictor(spec, model.predictor_bytes()).predict(rows))
    model.learn(rows, np.zeros((1, spec.targets)))
    json.dumps([model.diagnostics(), model.metrics()], allow_nan=False)
    assert OnlineModel.from_bytes(model.to_bytes()).to_bytes() == model.to_bytes()


def test_every_number_of_a_schedule_belongs_to_one():
    assert set(SCHEDULE_OF.values()) <= SCHEDULES.keys()


@pytest.mark.parametrize("kind", [{"kind": "hash", "buckets": 9}, {"kind": "category", "values": ["a"]}])
def test_a_text_of_more_than_8_kib_is_refused(kind):
    encoder = FeatureEncoder(ModelSpec(task="binary", features=[{"name": "word", **kind}]))
    encoder.encode([["x" * 8192], ["é" * 4096]])
    for text in ("x" * 8193, "é" * 4097, "x" * 2**24):
        with pytest.raises(RowError, match="at most 8,192 bytes") as caught:
            encoder.encode([["fine"], [text]])
        assert (caught.value.row, caught.value.pointer) == (1, "/0")


def test_a_row_costs_cells_by_its_inputs_and_layers():
    features = [{"name": "a"}, {"name": "b", "kind": "hash", "buckets": 1000}]
    spec = ModelSpec(task="multiclass", classes=3, features=features, layers=[{"units": 8}])
    assert spec.cells == 2 + 1001 + 8 + 3


def test_many_rows_are_predicted_in_slices(spec_of, rows_of, monkeypatch):
    spec = spec_of("multiclass")
    X, _ = rows_of(spec, 1000)
    whole = OnlineModel(spec)
    whole.fit(X, np.zeros(1000))
    expected = whole.predict(X)
    monkeypatch.setattr("model.predictor.CELLS_AT_ONCE", 7 * spec.cells)
    assert whole.predict(X) == pytest.approx(expected, rel=1e-5)
