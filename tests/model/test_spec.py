"""What a spec accepts, what it fills in, and what it says about the rest."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from model.optimizer_spec import DEFAULT_OPTIMIZER, OPTIMIZER_DEFAULTS
from model.spec import COMBINATIONS, ModelSpec

BINARY = {"task": "binary", "features": 2}


def refusal(fields):
    """Place and message of the one error."""
    with pytest.raises(ValidationError) as caught:
        ModelSpec.model_validate_json(json.dumps({**BINARY, **fields}))
    (error,) = caught.value.errors()
    return ".".join(map(str, error["loc"])), error["msg"]


REFUSED = [
    ({"task": "ranking"}, "task", "'binary', 'multiclass' or 'regression'"),
    ({"features": 0}, "features", "from 1 to 100,000"),
    ({"features": True}, "features", "a number, or a list"),
    ({"features": []}, "features", "a list of 1 to"),
    ({"features": [{"name": "a"}, {"name": "a"}]}, "features.1.name", "a name of its own"),
    ({"features": [{"kind": "number"}]}, "features.0.name", "required"),
    ({"features": [{"name": "a", "kind": "text"}]}, "features.0.kind", "'number', 'boolean'"),
    ({"features": [{"name": "a", "kind": "category"}]}, "features.0.values", "one or more"),
    ({"features": [{"name": "a", "kind": "category", "values": []}]}, "features.0.values", "one or more"),
    (
        {"features": [{"name": "a", "kind": "category", "values": ["x", "x"]}]},
        "features.0.values",
        "different",
    ),
    ({"features": [{"name": "a", "kind": "category", "values": [1.5]}]}, "features.0.values", "integers"),
    ({"features": [{"name": "a", "values": ["x"]}]}, "features.0.values", "only a feature of kind category"),
    ({"features": [{"name": "a", "kind": "hash"}]}, "features.0.buckets", "needs buckets"),
    ({"features": [{"name": "a", "kind": "hash", "buckets": 0}]}, "features.0.buckets", "greater"),
    ({"features": [{"name": "a", "buckets": 3}]}, "features.0.buckets", "only a feature of kind hash"),
    ({"classes": ["a"]}, "classes", "2 to 10,000"),
    ({"classes": ["a", "a"]}, "classes", "different"),
    ({"classes": [1, "a"]}, "classes", "all integers"),
    ({"classes": ["a", "b", "c"]}, "classes", "exactly two"),
    ({"task": "multiclass"}, "classes", "needs classes"),
    ({"task": "multiclass", "output": "softmax", "classes": ["a"]}, "classes", "2 to 10,000"),
    ({"task": "regression", "classes": [0, 1]}, "classes", "has no classes"),
    ({"targets": 2}, "targets", "only a regression"),
    ({"task": "regression", "targets": 0}, "targets", "greater"),
    ({"layers": [{"units": -3}]}, "layers.0.units", "greater"),
    ({"layers": [{"units": 2_000_000}]}, "layers.0.units", "less"),
    ({"layers": [{"units": 600_000}] * 2}, "layers", "1,000,000 units"),
    ({"layers": [{"units": 30_000}] * 2}, "layers", "100,000,000"),
    ({"layers": [{"units": 3, "activation": "swish"}]}, "layers.0.activation", "'relu'"),
    ({"layers": [{"units": 3, "dropout": 1.0}]}, "layers.0.dropout", "less than 1"),
    ({"layers": [{"units": 3, "dropout": -0.1}]}, "layers.0.dropout", "greater"),
    ({"layers": 3}, "layers", "array"),
    ({"loss": "hinge", "task": "regression"}, "loss", "mean_squared, mean_absolute, huber; not hinge"),
    ({"loss": "huber"}, "loss", "cross_entropy, mean_squared, hinge, perceptron; not huber"),
    ({"loss": "cross_entropy", "output": "threshold"}, "output", "is sigmoid; not threshold"),
    ({"output": "softmax"}, "output", "is sigmoid; not softmax"),
    ({"task": "regression", "output": "sigmoid"}, "output", "is linear; not sigmoid"),
    ({"class_weights": [1.0]}, "class_weights", "one number for each"),
    ({"class_weights": [1.0, 0.0]}, "class_weights.1", "greater than 0"),
    ({"task": "regression", "class_weights": [1.0]}, "class_weights", "a regression has no"),
    ({"optimizer": {"name": "lion"}}, "optimizer.name", "'sgd', 'rmsprop', 'adam'"),
    ({"optimizer": {"name": "adam", "momentum": 0.9}}, "optimizer.momentum", "only sgd and rmsprop"),
    ({"optimizer": {"name": "sgd", "betas": [0.9, 0.99]}}, "optimizer.betas", "only adam and adamw"),
    ({"optimizer": {"name": "sgd", "nesterov": True}}, "optimizer.nesterov", "momentum above 0"),
    ({"optimizer": {"learning_rate": -1}}, "optimizer.learning_rate", "greater"),
    ({"optimizer": {"clip_norm": 0}}, "optimizer.clip_norm", "greater than 0"),
    ({"optimizer": {"schedule": {"name": "cosine"}}}, "optimizer.schedule.steps", "needs steps"),
    (
        {"optimizer": {"schedule": {"name": "exponential", "gamma": 0.9, "decay": 1}}},
        "optimizer.schedule.decay",
        "only the schedule inverse_time",
    ),
    ({"scaling": "robust"}, "scaling", "'standard', 'minmax' or 'none'"),
    ({"initializer": "ones"}, "initializer", "'he', 'glorot'"),
    ({"bias": 1}, "bias", "boolean"),
    ({"seed": -1}, "seed", "greater"),
    ({"seed": 1.0}, "seed", "integer"),
    ({"keep": 0}, "keep", "greater"),
    ({"colour": "red"}, "colour", "not permitted"),
]


@pytest.mark.parametrize(("fields", "place", "message"), REFUSED, ids=lambda part: str(part)[:60])
def test_a_bad_spec_gets_one_error_that_names_the_field(fields, place, message):
    found_place, found_message = refusal(fields)
    assert found_place == place
    assert message in found_message


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999"])
def test_numbers_that_are_not_finite_are_refused(number):
    text = json.dumps({**BINARY, "optimizer": {"learning_rate": 0.5}}).replace("0.5", number)
    with pytest.raises(ValidationError, match="learning_rate"):
        ModelSpec.model_validate_json(text)


@pytest.mark.parametrize("task", COMBINATIONS)
def test_loss_and_output_follow_from_each_other_and_from_the_task(task):
    fields = {**BINARY, "task": task} | ({"classes": 3} if task == "multiclass" else {})
    first = ModelSpec.model_validate(fields)
    assert (first.loss, first.output) == COMBINATIONS[task][0]
    for loss, output in COMBINATIONS[task]:
        assert ModelSpec.model_validate({**fields, "loss": loss}).output == output
        assert ModelSpec.model_validate({**fields, "output": output}).loss in {
            pair[0] for pair in COMBINATIONS[task] if pair[1] == output
        }


def test_an_optimizer_without_a_name_is_the_default_one_with_its_defaults():
    optimizer = ModelSpec.model_validate({**BINARY, "optimizer": {"learning_rate": 0.3}}).optimizer
    assert (optimizer.name, optimizer.learning_rate) == (DEFAULT_OPTIMIZER["name"], 0.3)
    assert optimizer.clip_norm == DEFAULT_OPTIMIZER["clip_norm"]


def test_without_an_optimizer_a_model_is_the_committee_that_suits_its_size():
    spec = ModelSpec.model_validate(BINARY)
    assert spec.optimizer == "auto"
    assert len(spec.members) == 3
    assert ModelSpec.model_validate({**BINARY, "optimizer": "auto"}) == spec


@pytest.mark.parametrize(
    ("asked", "there", "is_met"),
    [
        ({}, {"optimizer": {}}, True),  # as version 0.1 had it by default
        ({}, {"optimizer": "auto"}, True),
        ({}, {"optimizer": {"name": "adam"}}, False),
        ({}, {"optimizer": {}, "seed": 1}, False),
        ({"optimizer": "auto"}, {"optimizer": {}}, False),
        ({"optimizer": {}}, {"optimizer": "auto"}, False),
        ({"classes": [0, 1]}, {"classes": [False, True]}, False),
    ],
)
def test_a_spec_without_an_optimizer_is_met_by_the_default_of_before(asked, there, is_met):
    stored = ModelSpec.model_validate_json(ModelSpec.model_validate({**BINARY, **there}).model_dump_json())
    assert ModelSpec.model_validate({**BINARY, **asked}).is_met_by(stored) == is_met


@pytest.mark.parametrize("name", OPTIMIZER_DEFAULTS)
def test_an_optimizer_with_a_name_has_the_defaults_of_its_definition(name):
    optimizer = ModelSpec.model_validate({**BINARY, "optimizer": {"name": name}}).optimizer
    for field, value in OPTIMIZER_DEFAULTS[name].items():
        assert getattr(optimizer, field) == value
    assert optimizer.clip_norm is None


def test_classes_can_be_counted():
    spec = ModelSpec.model_validate({"task": "multiclass", "features": 1, "classes": 4})
    assert spec.classes == (0, 1, 2, 3)
    assert spec.outputs == 4


@pytest.mark.parametrize("classes", [[False, True], ["no", "yes"], [-1, 1]])
def test_classes_keep_their_type(classes):
    spec = ModelSpec.model_validate({**BINARY, "classes": classes})
    again = ModelSpec.model_validate_json(spec.model_dump_json())
    assert [type(label) for label in again.classes] == [type(label) for label in classes]


def test_widths_follow_from_the_features():
    spec = ModelSpec.model_validate(
        {
            **BINARY,
            "features": [
                {"name": "a", "indicator": True},
                {"name": "b", "kind": "category", "values": ["x", "y"]},
                {"name": "c", "kind": "hash", "buckets": 10, "indicator": True},
            ],
            "layers": [{"units": 4, "batch_norm": True}, {"units": 3}],
        }
    )
    assert (spec.width, spec.inputs, spec.outputs) == (3, 2 + 3 + 11, 1)
    assert spec.parameter_count == 16 * 4 + 4 + 4 + 4 * 3 + 3 + 3 + 1
    assert [feature.name for feature in spec.feature_list] == ["a", "b", "c"]
    assert [feature.name for feature in ModelSpec.model_validate(BINARY).feature_list] == ["x0", "x1"]


FEATURES = st.one_of(
    st.integers(1, 50),
    st.lists(
        st.one_of(
            st.fixed_dictionaries(
                {"kind": st.sampled_from(["number", "boolean"]), "indicator": st.booleans()}
            ),
            st.fixed_dictionaries(
                {
                    "kind": st.just("category"),
                    "values": st.lists(
                        st.one_of(st.integers(-5, 5), st.text(max_size=3)),
                        min_size=1,
                        max_size=4,
                        unique=True,
                    ),
                }
            ),
            st.fixed_dictionaries({"kind": st.just("hash"), "buckets": st.integers(1, 99)}),
        ),
        min_size=1,
        max_size=6,
    ).map(lambda features: [{"name": f"f{place}", **feature} for place, feature in enumerate(features)]),
)
OPTIMIZERS = st.one_of(
    *(
        st.fixed_dictionaries(
            {"name": st.just(name)},
            optional={
                "learning_rate": st.floats(0, 10),
                "weight_decay": st.floats(0, 1),
                "l1": st.floats(0, 1),
                "clip_norm": st.one_of(st.none(), st.floats(0.01, 100)),
                "schedule": st.sampled_from(
                    [
                        {"name": "constant", "warm_up": 5},
                        {"name": "cosine", "steps": 9},
                        {"name": "exponential", "gamma": 0.5},
                        {"name": "inverse_time", "decay": 0.1},
                    ]
                ),
            },
        )
        for name in OPTIMIZER_DEFAULTS
    )
)


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(FEATURES, OPTIMIZERS, st.booleans(), st.integers(0, 2**63 - 1))
def test_a_spec_survives_the_round_trip(features, optimizer, bias, seed):
    fields = {"task": "binary", "features": features, "optimizer": optimizer, "bias": bias, "seed": seed}
    spec = ModelSpec.model_validate(fields)
    text = spec.model_dump_json()
    again = ModelSpec.model_validate_json(text)
    assert again == spec
    assert hash(again) == hash(spec)
    assert again.model_dump_json() == text
    assert ModelSpec.model_validate(json.loads(text)) == spec


def test_a_spec_has_a_json_schema():
    schema = ModelSpec.model_json_schema()
    assert set(schema["required"]) >= {"task", "features"}
