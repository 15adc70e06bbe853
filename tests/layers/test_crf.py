import functools
import itertools
import json

import battery
import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_llm.layers import CRF, crf_decode, crf_log_likelihood, crf_marginals

LENGTHS = [4, 2, 1, 0]
MASK = np.arange(4) < np.array(LENGTHS)[:, None]  # (batch, length)


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def make_crf(num_tags=3, seed=0, **kwargs):
    crf = CRF(num_tags, **kwargs)
    crf.build((None, None, num_tags))
    crf.set_weights([normal(seed + i, *w.shape) for i, w in enumerate(crf.get_weights())])
    return crf


def all_paths(crf, emissions):
    """Every sequence of tags with its score: one dict for the positions (length, tags)."""
    transitions, starts, ends = (np.float64(w) for w in crf.get_weights())
    forbidden = [
        np.zeros_like(w) if allowed is None else np.where(allowed, 0.0, -np.inf)
        for w, allowed in (
            (transitions, crf.allowed_transitions),
            (starts, crf.allowed_starts),
            (ends, crf.allowed_ends),
        )
    ]
    transitions, starts, ends = map(np.add, (transitions, starts, ends), forbidden)
    paths = {}
    for path in itertools.product(range(crf.num_tags), repeat=len(emissions)):
        if not path:
            return {(): 0.0}
        score = starts[path[0]] + ends[path[-1]]
        score += sum(emissions[t, tag] for t, tag in enumerate(path))
        score += sum(transitions[pair] for pair in itertools.pairwise(path))
        paths[path] = score
    return paths


def log_sum(scores):
    top = max(scores)
    return top + np.log(np.sum(np.exp(np.array(scores) - top)))


def check_all_paths(crf, emissions, mask):
    potentials = crf(emissions, padding_mask=mask)
    best = battery.numpy(crf_decode(potentials))
    marginals = battery.numpy(crf_marginals(potentials))
    rng = np.random.default_rng(0)
    for row, length in enumerate(mask.sum(axis=1)):
        paths = all_paths(crf, emissions[row, :length])
        log_z = log_sum(list(paths.values()))
        assert paths[tuple(best[row, :length].tolist())] >= max(paths.values()) - 1e-5

        possible = [path for path, score in paths.items() if score > -np.inf]
        path = possible[rng.integers(len(possible))]
        tags = np.zeros((1, mask.shape[1]), "int32")
        tags[0, :length] = path
        log_p = crf_log_likelihood(potentials[row : row + 1], tags, mask[row : row + 1])
        np.testing.assert_allclose(battery.numpy(log_p), [paths[path] - log_z], atol=2e-4)

        expected = np.zeros((length, crf.num_tags))
        for path, score in paths.items():
            for t, tag in enumerate(path):
                expected[t, tag] += np.exp(score - log_z)
        np.testing.assert_allclose(marginals[row, :length], expected, atol=2e-5)


def test_formula_over_all_paths():
    check_all_paths(make_crf(), normal(7, 4, 4, 3), MASK)


ALLOWED = {
    "allowed_transitions": [[True, True, False], [True, False, True], [False, True, True]],
    "allowed_starts": [True, True, False],
    "allowed_ends": [True, False, True],
}


def test_formula_over_all_paths_that_are_allowed():
    crf, emissions = make_crf(**ALLOWED), normal(7, 4, 4, 3)
    check_all_paths(crf, emissions, MASK)
    emissions[:, :, 2] += 100.0  # however much the network wants a start or a transition
    tags = battery.numpy(crf_decode(crf(emissions, padding_mask=MASK)))
    assert tags[0].tolist() == [1, 2, 2, 2]


@settings(max_examples=25)
@given(st.data())
def test_all_paths_for_any_sizes_and_lengths(data):
    tags, batch, length = (data.draw(st.integers(1, 4)) for _ in range(3))
    lengths = np.array(data.draw(st.lists(st.integers(0, length), min_size=batch, max_size=batch)))
    seed, scale = data.draw(st.integers(0, 99)), data.draw(st.sampled_from([0.1, 1.0, 20.0]))
    emissions = scale * normal(seed, batch, length, tags)
    check_all_paths(make_crf(tags, seed), emissions, np.arange(length) < lengths[:, None])


def test_formula_of_a_sequence_without_positions():
    crf, nothing = make_crf(), np.zeros((2, 3), bool)
    potentials = crf(normal(0, 2, 3, 3), padding_mask=nothing)
    log_p = crf_log_likelihood(potentials, np.ones((2, 3), "int32"), nothing)
    assert battery.numpy(log_p).tolist() == [0.0, 0.0]


def test_padding_adds_nothing():
    crf, emissions = make_crf(), normal(1, 1, 6, 3)
    emissions[:, 4:] = 1e4
    tags = np.array([[0, 2, 1, 1, 2, 0]])
    mask = np.arange(6)[None] < 4
    padded, alone = crf(emissions, padding_mask=mask), crf(emissions[:, :4])
    np.testing.assert_allclose(
        battery.numpy(crf_log_likelihood(padded, tags, mask)),
        battery.numpy(crf_log_likelihood(alone, tags[:, :4])),
        rtol=1e-6,
    )
    expected = battery.numpy(crf_decode(alone))[0].tolist()
    assert battery.numpy(crf_decode(padded))[0].tolist() == expected + expected[-1:] * 2
    battery.assert_close(
        battery.numpy(crf_marginals(padded))[:, :4], battery.numpy(crf_marginals(alone)), 1e-6
    )


def test_gradients_follow_the_formula():
    """The gradient of log Z by an emission is the marginal of its tag."""
    crf, emissions = make_crf(), normal(3, 4, 4, 3)
    tags = np.random.default_rng(0).integers(0, 3, (4, 4))

    def total(x):
        return keras.ops.sum(crf_log_likelihood(crf(x, padding_mask=MASK), tags, MASK))

    marginals = battery.numpy(crf_marginals(crf(emissions, padding_mask=MASK)))
    expected = np.where(MASK[:, :, None], np.eye(3)[tags] - marginals, 0.0)
    battery.assert_close(battery.gradients(total, emissions)[0], expected, 1e-5)


def test_formula_in_a_graph():
    crf, emissions = make_crf(), normal(5, 4, 4, 3)
    tags = np.random.default_rng(0).integers(0, 3, (4, 4))

    def everything(x, tags, mask):
        potentials = crf(x, padding_mask=mask)
        return (
            crf_log_likelihood(potentials, tags, mask),
            crf_decode(potentials),
            crf_marginals(potentials),
        )

    arrays = [keras.ops.convert_to_tensor(a) for a in (emissions, tags, MASK)]
    expected = battery.numpy(everything(*arrays))
    battery.assert_close(battery.numpy(battery.compiled(everything)(*arrays)), expected, 1e-5)


def test_batches_and_lengths_of_any_size_in_one_graph():
    tf = pytest.importorskip("tensorflow")
    crf = make_crf(2)
    spec = tf.TensorSpec((None, None, 2), tf.float32)

    @tf.function(input_signature=[spec], jit_compile=False)
    def tags_and_gradient(emissions):
        with tf.GradientTape() as tape:
            tape.watch(emissions)
            potentials = crf(emissions)
            tags = crf_decode(potentials)
            total = tf.reduce_sum(crf_log_likelihood(potentials, tags))
        return tags, crf_marginals(potentials), tape.gradient(total, emissions)

    for batch, length in ((2, 3), (1, 1), (3, 7)):
        emissions = normal(batch, batch, length, 2)
        tags, marginals, gradient = battery.numpy(tags_and_gradient(emissions))
        np.testing.assert_array_equal(tags, battery.numpy(crf_decode(crf(emissions))))
        battery.assert_close(gradient, np.eye(2)[tags] - marginals, 1e-5)


def test_layer_battery(tmp_path):
    arguments = {"emissions": normal(0, 4, 4, 3), "padding_mask": np.ones((4, 4), bool)}
    battery.check_layer(functools.partial(CRF, 3, name="crf"), arguments, tmp_path)


def test_what_is_allowed_is_kept_in_the_configuration():
    crf, emissions = make_crf(**ALLOWED), normal(7, 4, 4, 3)
    copy = CRF.from_config(json.loads(json.dumps(crf.get_config())))
    copy.build((None, None, 3))
    copy.set_weights(crf.get_weights())
    battery.assert_close(battery.numpy(copy(emissions)), battery.numpy(crf(emissions)))


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16", "bfloat16", "mixed_float16"])
def test_formula_in_float32_under_every_precision(dtype):
    emissions = normal(0, 2, 4, 3) + 100.0  # bfloat16 would lose all digits after the point
    potentials = make_crf(dtype=dtype)(emissions)
    assert keras.backend.standardize_dtype(potentials.dtype) == "float32"
    np.testing.assert_allclose(battery.numpy(potentials), battery.numpy(make_crf()(emissions)))


def test_equal_to_another_library():
    torch = pytest.importorskip("torch")
    other = pytest.importorskip("torchcrf").CRF(5, batch_first=True)
    crf, emissions = make_crf(5), normal(0, 8, 12, 5)
    lengths = np.random.default_rng(0).integers(1, 13, 8)
    mask = np.arange(12) < lengths[:, None]
    tags = np.random.default_rng(1).integers(0, 5, (8, 12))
    theirs = (other.transitions, other.start_transitions, other.end_transitions)
    for weight, value in zip(theirs, crf.get_weights(), strict=True):
        weight.data = torch.tensor(value)

    potentials = crf(emissions, padding_mask=mask)
    expected = other(
        torch.tensor(emissions), torch.tensor(tags), torch.tensor(mask), reduction="none"
    )
    log_p = crf_log_likelihood(potentials, tags, mask)
    np.testing.assert_allclose(battery.numpy(log_p), expected.detach().numpy(), rtol=1e-5)
    best = battery.numpy(crf_decode(potentials))
    paths = other.decode(torch.tensor(emissions), torch.tensor(mask))
    assert [row[:n].tolist() for row, n in zip(best, lengths, strict=True)] == paths


def test_learns_what_no_position_shows_alone():
    """Positions say nothing; only the pairs do: 0 and 1 take turns."""
    tags = np.tile([[0, 1, 0, 1, 0, 1], [1, 0, 1, 0, 1, 0]], (16, 1))
    emissions = np.zeros((32, 6, 2), "float32")
    emissions[:, 0] = 4.0 * np.eye(2)[tags[:, 0]]

    @keras.saving.register_keras_serializable("test_crf")
    def loss(tags, potentials):
        return -crf_log_likelihood(potentials, tags)

    inputs = keras.Input((None, 2))
    model = keras.Model(inputs, CRF(2)(inputs))
    model.compile(keras.optimizers.Adam(0.1), loss=loss)
    model.fit(emissions, tags, epochs=30, verbose=0)
    np.testing.assert_array_equal(battery.numpy(crf_decode(model(emissions))), tags)


def test_what_does_not_fit():
    with pytest.raises(ValueError, match=r"3 tags takes emissions \(batch, length, 3\)"):
        CRF(3)(np.zeros((1, 2, 4), "float32"))
    with pytest.raises(ValueError, match=r"must have the shape \(3, 3\), not \(2, 3\)"):
        CRF(3, allowed_transitions=np.ones((2, 3), bool))
    with pytest.raises(TypeError, match="must be boolean"):
        CRF(3, allowed_starts=[1, 1, 0])
    with pytest.raises(TypeError, match="must be boolean"):
        CRF(2)(np.zeros((1, 2, 2), "float32"), padding_mask=np.ones((1, 2)))
