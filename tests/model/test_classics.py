"""Classical models that need no more than a spec, and behave as the textbooks say."""

import numpy as np
import pytest

from model.online import OnlineModel

LINEAR = {"layers": [], "scaling": "none"}
PERCEPTRON = {**LINEAR, "output": "threshold", "optimizer": {"name": "sgd", "learning_rate": 1.0}}


def separable(rows, generator, margin=0.2):
    X = generator.normal(size=(rows * 3, 2))
    distance = X @ np.array([0.8, -0.6]) + 0.3
    kept = np.abs(distance) > margin
    return X[kept][:rows], (distance[kept][:rows] > 0).astype(np.float64)


def test_a_perceptron_changes_on_mistakes_only(spec_of):
    model = OnlineModel(spec_of(features=2, **PERCEPTRON))
    X, y = separable(200, np.random.default_rng(0))
    weights, bias = np.zeros(2), 0.0
    for x, label in zip(X, y, strict=True):
        learned = model.learn(x[None], np.array([label]))
        sign = 2.0 * label - 1.0
        predicted = 1.0 if weights @ x + bias >= 0 else -1.0
        assert learned.predictions[0, 0] == predicted
        if predicted != sign:
            weights, bias = weights + sign * x, bias + sign
        assert model.parameters["layers.0.weight"][0] == pytest.approx(weights, rel=1e-5)
        assert model.parameters["layers.0.bias"][0] == pytest.approx(bias, rel=1e-5)


def test_a_perceptron_converges_on_separable_rows_within_the_bound_of_novikoff(spec_of):
    model = OnlineModel(spec_of(features=2, **PERCEPTRON))
    X, y = separable(200, np.random.default_rng(1))
    mistakes, previous = 0, -1
    while mistakes != previous:
        previous = mistakes
        mistakes += int((model.learn(X, y).predictions[:, 0] != 2 * y - 1).sum())
    radius_squared = (X**2).sum(axis=1).max() + 1.0
    # The separator (0.8, −0.6, 0.3) has norm √1.09 and a margin of 0.2.
    assert mistakes <= radius_squared * 1.09 / 0.2**2
    assert (model.predict(X)[:, 0] == 2 * y - 1).all()


def test_a_perceptron_of_several_classes_moves_two_rows_of_weights_on_a_mistake(spec_of):
    model = OnlineModel(spec_of("multiclass", 3, **PERCEPTRON))
    x = np.array([[1.0, 2.0, -1.0]])
    model.learn(x, np.array([2.0]))
    assert (model.parameters["layers.0.weight"] == np.array([-x[0], 0 * x[0], x[0]])).all()
    assert model.predict(x).tolist() == [[-1.0, -1.0, 1.0]]
    before = model.parameters["layers.0.weight"].copy()
    model.learn(x, np.array([2.0]))
    assert (model.parameters["layers.0.weight"] == before).all()


def test_linear_regression_finds_the_least_squares_solution(spec_of):
    generator = np.random.default_rng(2)
    X = generator.normal(size=(200, 4))
    y = X @ np.array([1.0, -2.0, 0.5, 0.0]) + 3.0 + 0.3 * generator.normal(size=200)
    exact = np.linalg.lstsq(np.column_stack([X, np.ones(200)]), y, rcond=None)[0]
    model = OnlineModel(spec_of("regression", 4, **LINEAR, optimizer={"name": "sgd", "learning_rate": 0.1}))
    model.fit(X, y, epochs=300, batch_size=None)
    assert model.parameters["layers.0.weight"][0] == pytest.approx(exact[:4], abs=1e-4)
    assert model.parameters["layers.0.bias"][0] == pytest.approx(exact[4], abs=1e-4)


def test_standardised_targets_give_the_same_least_squares_solution(spec_of):
    generator = np.random.default_rng(3)
    X = generator.normal(size=(2000, 3)) * [1.0, 100.0, 0.01] + [5.0, -300.0, 0.2]
    y = 1e4 + X @ np.array([1.0, 3.0, -2000.0]) + generator.normal(size=2000)
    design = np.column_stack([X, np.ones(2000)])
    exact = design @ np.linalg.lstsq(design, y, rcond=None)[0]
    model = OnlineModel(spec_of("regression", 3, layers=[], optimizer={"name": "sgd", "learning_rate": 0.1}))
    model.fit(X, y, epochs=300, batch_size=None)
    assert model.predict(X)[:, 0] == pytest.approx(exact, abs=0.03 * np.std(y))


def regularised(task, l2, rate, schedule=None):
    optimizer = {"name": "sgd", "learning_rate": rate, "l2": l2}
    if schedule is not None:
        optimizer["schedule"] = schedule
    return {"task": task, **LINEAR, "optimizer": optimizer}


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_full_batch_mini_batch_and_single_rows_reach_the_same_optimum(task, spec_of, rows_of):
    """A convex problem has one optimum; the two stochastic ways get there by a rate that falls like 1 / t."""
    falling = {"name": "inverse_time", "decay": 0.01}
    full = OnlineModel(spec_of(features=3, **regularised(task, 0.1, 0.2)))
    X, y = rows_of(full.spec, 100)
    full.fit(X, y, epochs=500, batch_size=None)
    mini = OnlineModel(spec_of(features=3, **regularised(task, 0.1, 0.1, falling)))
    mini.fit(X, y, epochs=500, batch_size=10)
    single = OnlineModel(spec_of(features=3, **regularised(task, 0.1, 0.1, falling)))
    order = np.random.default_rng(4)
    for _ in range(500):
        rows = order.permutation(len(X))
        single.learn(X[rows], y[rows])
    for name, optimum in full.parameters.items():
        assert mini.parameters[name] == pytest.approx(optimum, abs=0.02), name
        assert single.parameters[name] == pytest.approx(optimum, abs=0.02), name


def test_logistic_regression_finds_the_optimum_of_a_reference(spec_of, rows_of):
    linear_model = pytest.importorskip("sklearn.linear_model")
    spec = spec_of(features=3, **regularised("binary", 0.01, 0.5))
    X, y = rows_of(spec, 200)
    reference = linear_model.LogisticRegression(C=1.0 / (0.01 * 200), tol=1e-8).fit(X, y[:, 0])
    model = OnlineModel(spec)
    model.fit(X, y, epochs=1000, batch_size=None)
    assert model.parameters["layers.0.weight"][0] == pytest.approx(reference.coef_[0], abs=1e-3)
    assert model.parameters["layers.0.bias"][0] == pytest.approx(reference.intercept_[0], abs=1e-3)


def test_softmax_regression_finds_the_optimum_of_a_reference(spec_of, rows_of):
    linear_model = pytest.importorskip("sklearn.linear_model")
    spec = spec_of(features=3, **regularised("multiclass", 0.01, 0.5))
    X, y = rows_of(spec, 200)
    reference = linear_model.LogisticRegression(C=1.0 / (0.01 * 200), tol=1e-8).fit(X, y[:, 0])
    model = OnlineModel(spec)
    model.fit(X, y, epochs=2000, batch_size=None)
    assert model.predict(X) == pytest.approx(reference.predict_proba(X), abs=2e-3)


def test_a_linear_model_without_bias_moves_only_the_weight_of_its_one_hot_input(spec_of):
    optimizer = {"name": "sgd", "learning_rate": 0.5}
    spec = spec_of("regression", 6, **LINEAR, bias=False, optimizer=optimizer)
    model = OnlineModel(spec)
    assert model.parameters.keys() == {"layers.0.weight"}
    for row in range(6):
        model.learn(np.eye(6)[row : row + 1], np.ones(1))
        moved = np.arange(6) <= row
        assert model.parameters["layers.0.weight"][0].tolist() == moved.astype(float).tolist()


def circles(rows, generator):
    X = generator.uniform(-1, 1, size=(rows, 2))
    return X, ((X**2).sum(axis=1) > 0.6).astype(np.float64)


def test_a_multi_layer_classifier_learns_what_a_line_cannot(spec_of):
    X, y = circles(3000, np.random.default_rng(5))
    model = OnlineModel(spec_of(features=2))
    model.learn(X, y)
    fresh, labels = circles(500, np.random.default_rng(6))
    assert ((model.predict(fresh)[:, 0] > 0.5) == labels).mean() > 0.93


def test_a_multi_layer_regressor_learns_a_curve_with_several_targets(spec_of):
    generator = np.random.default_rng(7)
    X = generator.uniform(-2, 2, size=(4000, 1))
    y = np.column_stack([1000.0 * np.sin(2 * X[:, 0]), 0.001 * X[:, 0] ** 2])
    model = OnlineModel(spec_of("regression", 1, targets=2))
    model.learn(X, y)
    errors = np.abs(model.predict(X[-500:]) - y[-500:]).mean(axis=0)
    assert (errors < 0.15 * y.std(axis=0)).all()


@pytest.mark.parametrize("task", ["binary", "multiclass"])
def test_a_hinge_stops_moving_once_the_margin_is_kept(task, spec_of):
    optimizer = {"name": "sgd", "learning_rate": 1.0}
    model = OnlineModel(spec_of(task, 2, **LINEAR, loss="hinge", optimizer=optimizer))
    x, y = np.array([[2.0, 1.0]]), np.ones(1)
    losses = [float(model.learn(x, y).losses[0]) for _ in range(4)]
    assert losses[0] > 0
    assert losses[-1] == 0
    before = {name: values.copy() for name, values in model.parameters.items()}
    model.learn(x, y)
    assert all((values == before[name]).all() for name, values in model.parameters.items())


def test_class_weights_multiply_the_step_of_their_class(spec_of):
    optimizer = {"name": "sgd", "learning_rate": 0.1}
    plain = OnlineModel(spec_of(features=2, **LINEAR, optimizer=optimizer))
    weighted = OnlineModel(spec_of(features=2, **LINEAR, optimizer=optimizer, class_weights=[1.0, 3.0]))
    x = np.array([[2.0, 1.0]])
    for label, factor in ((1.0, 3.0), (0.0, 1.0)):
        before = plain.parameters["layers.0.bias"].copy(), weighted.parameters["layers.0.bias"].copy()
        weighted.parameters["layers.0.bias"][...] = before[0]
        weighted.parameters["layers.0.weight"][...] = plain.parameters["layers.0.weight"]
        plain.learn(x, np.array([label]))
        weighted.learn(x, np.array([label]))
        steps = [model.parameters["layers.0.bias"] - before[0] for model in (plain, weighted)]
        assert steps[1] == pytest.approx(factor * steps[0], rel=1e-5)
