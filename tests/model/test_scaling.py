"""Running statistics and what rows are after scaling."""

import numpy as np
import pytest

from model import scaling
from model.inputs import Inputs
from model.kernels import fold_rows
from model.scaling import COUNT, KINDS, LIMIT, MEAN, deviation, new_state, scaler_of
from model.spec import ModelSpec


def folded(X, kind="standard"):
    state = new_state(X.shape[1])
    fold_rows(KINDS[kind], state, X)
    return state


def scaled_online(X, kind):
    """Each row as it is scaled before it is folded in."""
    state, rows = new_state(X.shape[1]), []
    for row in X:
        rows.append(scaler_of(kind, state)(row[None])[0])
        fold_rows(KINDS[kind], state, row[None])
    return np.array(rows)


def test_mean_and_deviation_are_those_of_the_rows():
    X = np.random.default_rng(0).normal(size=(30, 3)) * [1.0, 1e6, 1e-6] + [0.0, 1e9, 5.0]
    state = folded(X)
    assert state[MEAN] == pytest.approx(X.mean(axis=0), rel=1e-12)
    assert deviation(state) == pytest.approx(X.std(axis=0), rel=1e-6)


def test_statistics_are_those_of_a_recent_stretch_that_grows_with_the_stream():
    X = np.random.default_rng(1).normal(size=(5000, 2))
    state = folded(X)
    rows = int(state[COUNT, 0])
    assert 5000 / 4 <= rows <= 5000
    assert state[MEAN] == pytest.approx(X[-rows:].mean(axis=0), abs=1e-9)
    assert deviation(state) == pytest.approx(X[-rows:].std(axis=0), rel=1e-9)
    assert (state[LIMIT] <= scaling.LARGEST_LIMIT).all()


def test_a_row_is_scaled_with_itself_included():
    X = np.random.default_rng(2).normal(size=(25, 2)) + 7.0
    state = folded(X[:-1])
    z = scaler_of("standard", state)(X[-1:])
    assert z[0] == pytest.approx((X[-1] - X.mean(axis=0)) / X.std(axis=0))


def test_minmax_goes_from_0_to_1_with_the_row_included():
    X = np.random.default_rng(3).normal(size=(25, 2))
    z = scaler_of("minmax", folded(X[:-1], "minmax"))(X[-1:])
    low, high = X.min(axis=0), X.max(axis=0)
    assert z[0] == pytest.approx((X[-1] - low) / (high - low))


@pytest.mark.parametrize("kind", ["standard", "minmax"])
def test_a_first_row_is_0(kind):
    assert (scaled_online(np.array([[5.0, -1e9, 1e308]]), kind) == 0).all()


@pytest.mark.parametrize("kind", ["standard", "minmax"])
def test_a_constant_feature_is_0(kind):
    X = np.full((300, 1), 0.1)
    assert (scaled_online(X, kind) == 0).all()


@pytest.mark.parametrize("first", [1e308, -1e6, 1e20])
def test_a_first_outlier_is_forgotten(first):
    X = np.random.default_rng(4).normal(size=(400, 1))
    X[0] = first
    z = scaled_online(X, "standard")
    assert np.abs(z).max() <= 10
    assert z[150:].std() == pytest.approx(1.0, abs=0.2)


def test_later_outliers_barely_move_the_statistics():
    X = np.random.default_rng(5).normal(size=(2000, 1))
    X[100::100] = 1e300
    state = folded(X)
    assert abs(state[MEAN, 0]) < 0.5
    assert deviation(state)[0] < 3
    assert scaler_of("standard", state)(np.array([[1e300]]))[0, 0] == pytest.approx(10)


def test_a_changed_scale_is_followed():
    generator = np.random.default_rng(6)
    X = np.concatenate([generator.normal(size=(3000, 1)), 1e4 + 1e3 * generator.normal(size=(6000, 1))])
    z = scaled_online(X, "standard")[-1000:]
    assert z.mean() == pytest.approx(0.0, abs=0.3)
    assert z.std() == pytest.approx(1.0, abs=0.3)


@pytest.mark.parametrize("kind", ["standard", "minmax", "none"])
def test_missing_values_are_the_mean_and_leave_the_statistics_as_they_are(kind):
    X = np.random.default_rng(7).normal(size=(60, 2)) + 1.0
    holes = X.copy()
    holes[20:40, 1] = np.nan
    state = folded(holes, kind)
    assert np.isfinite(state).all()
    z = scaler_of(kind, state)(np.array([[np.nan, np.nan]]))
    if kind == "none":
        assert (z == 0).all()
    else:
        assert state[COUNT].tolist() == [60, 40]
        assert z == pytest.approx(scaler_of(kind, state)(state[MEAN][None]))


def test_a_feature_that_is_missing_at_first_has_statistics_of_its_own():
    X = np.random.default_rng(8).normal(size=(500, 2)) + 3.0
    X[:400, 1] = np.nan
    state = folded(X)
    assert state[MEAN, 1] == pytest.approx(X[400:, 1][-int(state[COUNT, 1]) :].mean())


def test_features_become_inputs_in_their_order():
    spec = ModelSpec.model_validate(
        {
            "task": "binary",
            "scaling": "none",
            "features": [
                {"name": "a", "indicator": True},
                {"name": "b", "kind": "category", "values": ["x", "y"], "indicator": True},
                {"name": "c", "kind": "boolean"},
                {"name": "d", "kind": "hash", "buckets": 3},
            ],
        }
    )
    X = np.array([[2.5, 1.0, 1.0, 2.0], [np.nan, np.nan, np.nan, np.nan], [0.0, 2.0, 0.0, 0.0]])
    wanted = [
        [2.5, 0, 0, 1, 0, 0, 1, 0, 0, 1],
        [0.0, 1, 0, 0, 0, 1, 0, 0, 0, 0],
        [0.0, 0, 0, 0, 1, 0, 0, 1, 0, 0],
    ]
    assert Inputs(spec, scaler_of("none", new_state(0)))(X).tolist() == wanted
