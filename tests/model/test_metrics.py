"""Prequential scores against River's metrics, scikit-learn and the definitions written out in NumPy."""

import json
import math

import numpy as np
import pytest
from river import metrics as river_metrics
from sklearn.metrics import log_loss, mean_absolute_error, r2_score, roc_auc_score, root_mean_squared_error

from model.errors import StateError
from model.metrics import FADING, WINDOW, PrequentialMetrics
from model.spec import ModelSpec

BINARY = {"task": "binary", "features": 2}
THREE_CLASSES = {"task": "multiclass", "features": 2, "classes": ["a", "b", "c"]}
VALUE = {"task": "regression", "features": 2}
TWO_VALUES = {"task": "regression", "features": 2, "targets": 2}
HINGE = {"task": "binary", "features": 2, "layers": [], "loss": "hinge", "output": "linear"}
PERCEPTRON = {"task": "binary", "features": 2, "layers": [], "loss": "perceptron", "output": "threshold"}


def metrics_of(spec):
    return PrequentialMetrics(ModelSpec.model_validate(spec))


def update(metrics, predictions, y, weights=None, losses=None, skipped=None):
    predictions = np.asarray(predictions, dtype=float).reshape(len(predictions), -1)
    rows = len(predictions)
    metrics.update(
        predictions,
        np.asarray(y, dtype=float).reshape(rows, -1),
        np.ones(rows) if weights is None else np.asarray(weights, dtype=float),
        np.zeros(rows) if losses is None else np.asarray(losses, dtype=float),
        np.zeros(rows, dtype=bool) if skipped is None else np.asarray(skipped),
    )
    return metrics


def report_of(spec, *rows, **more):
    return update(metrics_of(spec), *rows, **more).report()


def fading_weights(rows):
    return FADING ** np.arange(rows)[::-1]


def binary_rows(rows, seed=0, spread=1.5):
    """Probabilities that tell something about labels whose balance drifts."""
    rng = np.random.default_rng(seed)
    y = (rng.random(rows) < np.linspace(0.2, 0.7, rows)).astype(float)
    return 1.0 / (1.0 + np.exp(-(y - 0.5 + spread * rng.normal(size=rows)))), y


def softmax_rows(rows, classes=3, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.choice(classes, size=rows, p=[0.6, 0.3, 0.1])
    scores = np.exp(rng.normal(size=(rows, classes)) + np.eye(classes)[y])
    return scores / scores.sum(axis=1, keepdims=True), y.astype(float)


def value_rows(rows, targets=1, seed=0):
    rng = np.random.default_rng(seed)
    y = 1e4 + rng.normal(size=(rows, targets)).cumsum(axis=0)
    return y + rng.normal(size=(rows, targets)), y


class TestBinary:
    def test_total_scores_are_rivers(self):
        p, y = binary_rows(500)
        accuracy, loss = river_metrics.Accuracy(), river_metrics.LogLoss()
        for one_p, one_y in zip(p, y, strict=True):
            accuracy.update(bool(one_y), bool(one_p > 0.5))
            loss.update(bool(one_y), float(one_p))
        total = report_of(BINARY, p, y)["total"]
        assert total["accuracy"] == pytest.approx(accuracy.get(), rel=1e-12)
        assert total["log_loss"] == pytest.approx(loss.get(), rel=1e-12)

    @pytest.mark.parametrize("spread", [0.3, 1.5, 6.0])
    def test_roc_auc_is_the_exact_one_within_the_bin_width(self, spread):
        p, y = binary_rows(3000, spread=spread)
        report = report_of(BINARY, p, y)
        assert report["total"]["roc_auc"] == pytest.approx(roc_auc_score(y, p), abs=1e-3)
        exact = roc_auc_score(y, p, sample_weight=fading_weights(len(y)))
        assert report["window"]["roc_auc"] == pytest.approx(exact, abs=1e-3)

    def test_roc_auc_agrees_with_rivers_rolling_one(self):
        p, y = binary_rows(400)
        rolling = river_metrics.RollingROCAUC(window_size=400)
        for one_p, one_y in zip(p, y, strict=True):
            rolling.update(bool(one_y), float(one_p))
        assert report_of(BINARY, p, y)["total"]["roc_auc"] == pytest.approx(rolling.get(), abs=1e-3)

    def test_fading_roc_auc_outlives_the_renormalisation_of_its_weights(self):
        rows = 300_000  # the growing weights pass 1e100 after 230,000 rows
        p, y = binary_rows(rows)
        window = report_of(BINARY, p, y)["window"]
        recent = slice(-40_000, None)
        exact = roc_auc_score(y[recent], p[recent], sample_weight=fading_weights(rows)[recent])
        assert window["roc_auc"] == pytest.approx(exact, abs=1e-3)

    def test_roc_auc_is_undefined_until_both_classes_were_seen(self):
        metrics = update(metrics_of(BINARY), [0.2, 0.4], [0, 0])
        assert metrics.report()["total"]["roc_auc"] is None
        update(metrics, [0.6], [1])
        assert metrics.report()["total"]["roc_auc"] == 1.0

    def test_a_tie_counts_half_in_roc_auc(self):
        assert report_of(BINARY, [0.5, 0.5], [0, 1])["total"]["roc_auc"] == 0.5

    def test_window_is_the_exponentially_weighted_mean(self):
        p, y = binary_rows(3000)
        weights = fading_weights(len(y))
        window = report_of(BINARY, p, y)["window"]
        assert window["size"] == WINDOW
        assert window["accuracy"] == pytest.approx(np.average((p > 0.5) == y, weights=weights), rel=1e-9)
        assert window["log_loss"] == pytest.approx(log_loss(y, p, sample_weight=weights), rel=1e-9)

    def test_certain_and_wrong_costs_a_finite_log_loss(self):
        assert report_of(BINARY, [1.0, 0.0], [0, 1])["total"]["log_loss"] == pytest.approx(34.5, abs=0.1)

    def test_baselines_use_earlier_labels_only(self):
        baselines = report_of(BINARY, [0.5] * 5, [1, 1, 0, 1, 0])["total"]["baselines"]
        # Majority says 1, 1, 1, 1 and no-change 1, 1, 0, 1 for the last four labels 1, 0, 1, 0.
        assert baselines["majority"]["accuracy"] == 2 / 4
        assert baselines["no_change"]["accuracy"] == 1 / 4
        smoothed = [2 / 3, 1 / 4, 3 / 5, 2 / 6]
        assert baselines["majority"]["log_loss"] == pytest.approx(-np.mean(np.log(smoothed)), rel=1e-12)

    def test_windowed_majority_follows_the_recent_labels(self):
        y = np.r_[np.zeros(6000), np.ones(5000)]
        report = report_of(BINARY, np.full(len(y), 0.5), y)
        assert report["total"]["baselines"]["majority"]["accuracy"] == pytest.approx(6000 / 11_000, abs=1e-3)
        assert report["window"]["baselines"]["majority"]["accuracy"] > 0.98


class TestMarginsAndSigns:
    """Outputs that are no probabilities: accuracy by sign, ROC AUC by rank, no log loss."""

    def test_hinge_margins_are_judged_by_sign(self):
        total = report_of(HINGE, [-30.0, -0.1, 0.1, 1e9], [0, 1, 1, 1])["total"]
        assert total["accuracy"] == 3 / 4
        assert total["log_loss"] is None
        assert total["roc_auc"] == 1.0

    def test_perceptron_outputs_minus_one_and_one(self):
        total = report_of(PERCEPTRON, [-1, 1, 1, -1], [0, 1, 0, 0])["total"]
        assert total["accuracy"] == 3 / 4
        assert total["log_loss"] is None
        assert total["roc_auc"] == pytest.approx(roc_auc_score([0, 1, 0, 0], [-1, 1, 1, -1]))


class TestMulticlass:
    def test_total_scores_are_the_usual_ones(self):
        p, y = softmax_rows(800)
        total = report_of(THREE_CLASSES, p, y)["total"]
        river_accuracy = river_metrics.Accuracy()
        for row, label in zip(p, y, strict=True):
            river_accuracy.update(int(label), int(row.argmax()))
        assert total["accuracy"] == pytest.approx(river_accuracy.get(), rel=1e-12)
        assert total["log_loss"] == pytest.approx(log_loss(y, p), rel=1e-9)
        assert "roc_auc" not in total

    def test_baselines_over_several_classes(self):
        baselines = report_of(THREE_CLASSES, np.full((4, 3), 1 / 3), [2, 2, 0, 0])["total"]["baselines"]
        assert baselines["majority"]["accuracy"] == 1 / 3
        assert baselines["no_change"]["accuracy"] == 2 / 3
        assert baselines["majority"]["log_loss"] == pytest.approx(-np.mean(np.log([2 / 4, 1 / 5, 2 / 6])))


class TestRegression:
    def test_total_scores_are_rivers(self):
        p, y = value_rows(500)
        mae, rmse, r2 = river_metrics.MAE(), river_metrics.RMSE(), river_metrics.R2()
        for one_p, one_y in zip(p[:, 0], y[:, 0], strict=True):
            for metric in (mae, rmse, r2):
                metric.update(float(one_y), float(one_p))
        total = report_of(VALUE, p, y)["total"]
        assert total["mae"] == pytest.approx(mae.get(), rel=1e-12)
        assert total["rmse"] == pytest.approx(rmse.get(), rel=1e-12)
        assert total["r2"] == pytest.approx(r2.get(), rel=1e-9)

    def test_window_is_exponentially_weighted(self):
        p, y = value_rows(3000)
        weights = fading_weights(len(y))
        window = report_of(VALUE, p, y)["window"]
        assert window["mae"] == pytest.approx(mean_absolute_error(y, p, sample_weight=weights), rel=1e-9)
        assert window["rmse"] == pytest.approx(root_mean_squared_error(y, p, sample_weight=weights), rel=1e-9)
        assert window["r2"] == pytest.approx(r2_score(y, p, sample_weight=weights), rel=1e-9)

    def test_several_targets_are_averaged(self):
        p, y = value_rows(200, targets=2)
        p[:, 1] += 5.0
        total = report_of(TWO_VALUES, p, y)["total"]
        assert total["mae"] == pytest.approx(mean_absolute_error(y, p), rel=1e-9)
        assert total["rmse"] == pytest.approx(root_mean_squared_error(y, p), rel=1e-9)
        assert total["r2"] == pytest.approx(r2_score(y, p), rel=1e-9)

    def test_baselines_use_earlier_labels_only(self):
        baselines = report_of(VALUE, [0.0] * 4, [1.0, 3.0, 5.0, 3.0])["total"]["baselines"]
        mean_errors, no_change_errors = np.array([2.0, 3.0, 0.0]), np.array([2.0, 2.0, 2.0])
        assert baselines["mean"]["mae"] == pytest.approx(mean_errors.mean())
        assert baselines["mean"]["rmse"] == pytest.approx(math.sqrt((mean_errors**2).mean()))
        assert baselines["no_change"]["mae"] == pytest.approx(no_change_errors.mean())
        assert baselines["no_change"]["rmse"] == pytest.approx(2.0)

    def test_windowed_mean_follows_the_recent_labels(self):
        y = np.r_[np.zeros(6000), np.full(8000, 10.0)]
        report = report_of(VALUE, y, y)
        assert report["window"]["baselines"]["mean"]["mae"] < 0.1
        assert report["total"]["baselines"]["mean"]["mae"] > 3.0

    def test_a_constant_label_has_no_r2(self):
        assert report_of(VALUE, [1.0, 2.0], [3.0, 3.0])["total"]["r2"] is None

    def test_extreme_values_leave_the_state_finite(self):
        metrics = metrics_of(VALUE)
        values = [1e308, -1e308, 0.0, 1e308]
        update(
            metrics, values, values[::-1], weights=[1e308, 1.0, 1e308, 1.0], losses=[1e308, math.inf, 0, 1]
        )
        assert all(np.isfinite(array).all() for array in metrics.state.values())
        json.dumps(metrics.report(), allow_nan=False)


STREAMS = {
    "binary": (BINARY, binary_rows),
    "multiclass": (THREE_CLASSES, softmax_rows),
    "regression": (VALUE, value_rows),
    "two targets": (TWO_VALUES, lambda rows: value_rows(rows, targets=2)),
}


@pytest.mark.parametrize(("spec", "rows_of"), STREAMS.values(), ids=STREAMS)
class TestEveryTask:
    def test_cutting_into_blocks_changes_nothing(self, spec, rows_of):
        p, y = rows_of(500)
        weights = np.random.default_rng(1).random(500)
        whole, cut = update(metrics_of(spec), p, y, weights), metrics_of(spec)
        for start, end in [(0, 1), (1, 2), (2, 200), (200, 200), (200, 500)]:
            update(
                cut, p[start:end].reshape(end - start, -1), y[start:end], weights[start:end]
            ) if end > start else None
        for name, array in whole.state.items():
            np.testing.assert_array_equal(array, cut.state[name], err_msg=name)

    def test_state_goes_through_load(self, spec, rows_of):
        p, y = rows_of(300)
        whole, first = update(metrics_of(spec), p, y), update(metrics_of(spec), p[:100], y[:100])
        second = metrics_of(spec)
        second.load({name: array.copy() for name, array in first.state.items()})
        assert second.report() == first.report()
        assert update(second, p[100:], y[100:]).report() == whole.report()

    def test_integer_weights_are_repetitions(self, spec, rows_of):
        p, y = rows_of(200)
        weights = np.random.default_rng(2).integers(0, 4, 200)
        weighted = report_of(spec, p, y, weights)["total"]
        repeated = report_of(spec, np.repeat(p, weights, axis=0), np.repeat(y, weights, axis=0))["total"]
        for name in weighted.keys() - {"baselines"}:  # a repeated row tells the baselines its label
            assert weighted[name] == pytest.approx(repeated[name], rel=1e-9)

    def test_nothing_is_claimed_before_the_first_row(self, spec, rows_of):
        report = metrics_of(spec).report()
        assert report["observations"] == report["skipped"] == 0
        scores = {**report["total"], "baselines": None}
        assert set(scores.values()) == {None}

    def test_a_prediction_that_is_not_finite_is_not_scored(self, spec, rows_of):
        p, y = rows_of(50)
        spoilt = p.copy()
        spoilt[[0, 20]] = math.nan
        report = report_of(spec, spoilt, y, skipped=~np.isfinite(spoilt).reshape(50, -1).all(axis=1))
        kept = ~np.isin(np.arange(50), [0, 20])
        assert report["total"] == report_of(spec, p[kept], y[kept])["total"]
        assert (report["observations"], report["skipped"]) == (50, 2)

    def test_a_skipped_row_with_a_prediction_is_scored(self, spec, rows_of):
        p, y = rows_of(50)
        skipped = np.arange(50) % 2 == 0
        report = report_of(spec, p, y, skipped=skipped)
        assert report["total"] == report_of(spec, p, y)["total"]
        assert report["skipped"] == 25

    def test_loss_is_the_mean_of_the_finite_losses(self, spec, rows_of):
        p, y = rows_of(4)
        total = report_of(spec, p, y, losses=[1.0, math.inf, 2.0, math.nan])["total"]
        assert total["loss"] == 1.5

    def test_reads_arrays_that_cannot_be_written(self, spec, rows_of):
        p, y = rows_of(5)
        p.setflags(write=False)
        y.setflags(write=False)
        assert report_of(spec, p, y)["observations"] == 5

    @pytest.mark.parametrize("fault", ["name", "shape", "nan"])
    def test_load_refuses_what_does_not_fit_and_changes_nothing(self, spec, rows_of, fault):
        metrics = update(metrics_of(spec), *rows_of(20))
        before = metrics.report()
        state = {name: np.zeros_like(array) for name, array in metrics.state.items()}
        if fault == "name":
            state["other"] = state.pop("sums")
        else:
            state["sums"] = state["sums"][:1] if fault == "shape" else state["sums"] + math.nan
        with pytest.raises(StateError):
            metrics.load(state)
        assert metrics.report() == before


def test_rows_of_different_number_are_refused():
    with pytest.raises(ValueError, match="differ in length"):
        update(metrics_of(BINARY), [0.5, 0.5], [0, 1], weights=[1.0])
