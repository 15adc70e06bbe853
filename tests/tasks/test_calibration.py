import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_expit, log_softmax, softmax

from keras_llm.tasks.calibration import (
    HIGHEST,
    LOWEST,
    TemperatureScaling,
    best_temperature,
    expected_calibration_error,
)


def softmax_rows(logits):
    return softmax(logits, axis=1)


def sure_and_often_wrong(seed=0):
    rng = np.random.default_rng(seed)
    logits = 5 * rng.normal(size=(300, 4))
    labels = [rng.choice(4, p=p) for p in softmax(logits / 3, axis=1)]
    return logits, np.eye(4)[labels]


def test_the_temperature_minimizes_the_negative_log_likelihood():
    logits, truth = sure_and_often_wrong()
    found = minimize_scalar(
        lambda t: -np.sum(truth * log_softmax(logits / t, axis=1)),
        bounds=(0.1, 10),
        method="bounded",
        options={"xatol": 1e-8},
    ).x
    assert best_temperature(logits, truth, softmax_rows) == pytest.approx(found, rel=1e-4)
    assert found == pytest.approx(3, abs=0.5)  # what the labels were drawn at


def test_the_temperature_of_yes_and_no():
    rng = np.random.default_rng(0)
    logits = 4 * rng.normal(size=(300, 3)) - 1
    truth = (rng.random((300, 3)) < expit(logits / 2)).astype(float)

    def loss(t):
        return -np.sum(truth * log_expit(logits / t) + (1 - truth) * log_expit(-logits / t))

    found = minimize_scalar(loss, bounds=(0.1, 10), method="bounded", options={"xatol": 1e-8}).x
    assert best_temperature(logits, truth, expit) == pytest.approx(found, rel=1e-4)


def test_without_an_error_or_without_a_hit_the_temperature_stays_bounded():
    logits = np.array([[3.0, 0.0], [0.0, 2.0]])
    assert best_temperature(logits, np.eye(2), softmax_rows) == pytest.approx(LOWEST, rel=1e-3)
    assert best_temperature(logits, 1 - np.eye(2), softmax_rows) == pytest.approx(HIGHEST, rel=1e-3)


@given(
    st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=50),
    st.integers(1, 20),
)
def test_the_error_equals_a_loop_over_the_bins(answers, num_bins):
    error = 0.0
    for m in range(num_bins):
        within = [
            (p, right)
            for p, right in answers
            if m < p * num_bins <= m + 1 or (m == 0 and p * num_bins == 0)
        ]
        if within:
            accuracy = sum(right for _, right in within) / len(within)
            confidence = sum(p for p, _ in within) / len(within)
            error += len(within) / len(answers) * abs(accuracy - confidence)
    confidence, correct = zip(*answers, strict=True)
    measured = expected_calibration_error(confidence, correct, num_bins)
    assert measured == pytest.approx(error, abs=1e-9)


def test_the_layer_divides_and_is_not_trained():
    model = keras.Sequential([keras.Input((3,)), TemperatureScaling()])
    assert not model.trainable_weights
    logits = np.array([[1.0, 2.0, 4.0]], "float32")
    np.testing.assert_array_equal(model(logits), logits)
    model.layers[0].temperature.assign(2.0)
    np.testing.assert_array_equal(model(logits), logits / 2)
