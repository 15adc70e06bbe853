import inspect
import io
import pickle
import zipfile

import battery
import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_llm import corpora, training
from keras_llm.models import NGramLM, RecurrentLM
from keras_llm.tokenizers import WordPieceTokenizer

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LETTERS = WordPieceTokenizer([*SPECIALS, *"abcdefg"])
CELLS = ("rnn", "lstm", "gru")
TEXTS = ["a b c d", "b c d e f g a b", "c d", "e f g a b c d e f g"]


def model(cell="lstm", **options):
    keras.utils.set_random_seed(0)
    return RecurrentLM(LETTERS, cell, **{"hidden_dim": 6, "sequence_length": 5, **options})


def with_random_weights(network):
    rng = np.random.default_rng(0)
    network.set_weights([rng.normal(size=w.shape) for w in network.get_weights()])
    return network


# === The equations ===


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def rnn_step(x, states, kernel, recurrent, bias):
    (h,) = states
    return [np.tanh(x @ kernel + h @ recurrent + bias)]


def lstm_step(x, states, kernel, recurrent, bias):
    h, c = states
    i, f, g, o = np.split(x @ kernel + h @ recurrent + bias, 4)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return [sigmoid(o) * np.tanh(c), c]


def gru_step(x, states, kernel, recurrent, bias):
    (h,) = states
    z, r, n = np.split(x @ kernel + bias[0], 3)
    z_h, r_h, n_h = np.split(h @ recurrent + bias[1], 3)
    z, r = sigmoid(z + z_h), sigmoid(r + r_h)
    return [z * h + (1 - z) * np.tanh(n + r * n_h)]


STEPS = {"rnn": (rnn_step, 1), "lstm": (lstm_step, 2), "gru": (gru_step, 1)}


def formula(network, ids):
    """The probabilities after each token of one text, in NumPy from the model's weights."""
    table, *weights, bias = network.get_weights()
    step, tensors = STEPS[network.cell]
    states = [[np.zeros(network.hidden_dim)] * tensors for _ in range(network.num_layers)]
    rows = []
    for token in ids:
        x = table[token] * np.sqrt(network.hidden_dim)
        for layer in range(network.num_layers):
            states[layer] = step(x, states[layer], *weights[3 * layer : 3 * layer + 3])
            x = states[layer][0]
        exponentials = np.exp(x @ table.T + bias)
        rows.append(exponentials / exponentials.sum())
    return np.array(rows)


@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("cell", CELLS)
def test_equals_the_equations(cell, num_layers):
    network = with_random_weights(model(cell, num_layers=num_layers))
    ids = np.array([2, 5, 6, 7, 11, 5, 3])
    expected = formula(network, ids[:-1])
    logits = battery.numpy(network(ids[None, :-1]))[0]
    np.testing.assert_allclose(battery.numpy(keras.ops.softmax(logits)), expected, atol=1e-5)
    log_p = network.log_probabilities([ids])[0]
    np.testing.assert_allclose(log_p, np.log(expected[np.arange(6), ids[1:]]), atol=1e-4)
    probabilities, _ = network.next_token(ids[:-1])
    np.testing.assert_allclose(probabilities, expected[-1], atol=1e-5)


def test_the_token_table_is_the_output_matrix():
    network = model()
    assert sum(w.shape == (12, 6) for w in network.weights) == 1
    assert network.count_params() == 12 * 6 + (6 + 6 + 1) * 4 * 6 + 12


@pytest.mark.parametrize("cell", CELLS)
def test_the_future_changes_nothing(cell):
    network = with_random_weights(model(cell, num_layers=2))
    ids = np.random.default_rng(1).integers(5, 12, (4, 9))
    before = battery.numpy(network(ids))
    for place in range(1, 9):
        changed = ids.copy()
        changed[:, place:] = (ids[:, place:] - 4) % 7 + 5
        after = battery.numpy(network(changed))
        np.testing.assert_array_equal(after[:, :place], before[:, :place])
        assert np.abs(after[:, place] - before[:, place]).max() > 1e-3


# === Judging ===


@pytest.mark.parametrize("cell", CELLS)
def test_long_and_short_texts_are_judged_as_if_each_were_read_in_one_go(cell, monkeypatch):
    monkeypatch.setattr("keras_llm.models.recurrent.TOKENS_AT_ONCE", 12)
    network = with_random_weights(model(cell, num_layers=2))
    rng = np.random.default_rng(2)
    frames = [np.array([2, *rng.integers(5, 12, n), 3]) for n in (3, 40, 0, 17, 40, 1)]
    for ids, log_p in zip(frames, network.log_probabilities(frames), strict=True):
        expected = formula(network, ids[:-1])[np.arange(len(ids) - 1), ids[1:]]
        np.testing.assert_allclose(log_p, np.log(expected), atol=2e-3)


def test_dropout_is_off_when_judging():
    network = with_random_weights(model(dropout=0.5))
    assert network.perplexity(TEXTS) == network.perplexity(TEXTS)


# === Examples ===


def test_windows_hold_every_token_once():
    network = model()
    frames = np.concatenate(network.frame(TEXTS))
    asked, weights = [], []
    for x, y, w in network.examples(TEXTS, batch_size=1):
        assert x.shape == y.shape == w.shape == (1, 5)
        np.testing.assert_array_equal(x[0, 1:], y[0, :-1])
        asked += y.numpy()[w.numpy() > 0].tolist()
        weights.append(w.numpy())
    assert sorted(asked) == sorted(frames[frames != LETTERS.start_token_id].tolist())
    assert np.sum(weights) == network.score(TEXTS).tokens


def test_windows_follow_the_text():
    x, y, _ = next(iter(model(sequence_length=40).examples(TEXTS)))
    stream = np.concatenate(model().frame(TEXTS))
    np.testing.assert_array_equal(x[0, : len(stream)], stream)
    np.testing.assert_array_equal(y[0, : len(stream) - 1], stream[1:])


def test_order_depends_on_seed_and_epoch_alone():
    def order(epochs=2, seed=0):
        batches = model(sequence_length=2).examples(TEXTS * 3, 4, epochs, seed)
        return np.concatenate([x.numpy() for x, _, _ in batches])

    twice = order()
    np.testing.assert_array_equal(twice, order())
    np.testing.assert_array_equal(twice[:20], order(epochs=1)[:20])
    half = len(twice) // 2
    assert (twice[:half] != twice[half : 2 * half]).any()
    assert (twice != order(seed=1)).any()


def test_the_number_of_batches_is_known():
    dataset = model().examples(TEXTS, batch_size=2, epochs=3)
    assert len(dataset) == len(list(dataset)) > 3


# === Learning ===


@pytest.mark.parametrize("cell", CELLS)
def test_learns_what_a_trigram_cannot(cell):
    """The letter that a text began with comes back after two others."""
    rng = np.random.default_rng(0)
    middles = [" ".join(rng.choice(list("efg"), 2)) for _ in range(1000)]
    texts = [f"{'abcd'[i % 4]} {middle} {'abcd'[i % 4]}" for i, middle in enumerate(middles)]
    network = model(cell, hidden_dim=24, dropout=0.0, sequence_length=6)
    network.fit(texts[:960], batch_size=16, epochs=8, verbose=0)
    trigram = NGramLM(LETTERS, 3).fit(texts[:960])
    # Of five tokens the first is one of 4, two are one of 3, and the last two are certain.
    assert network.perplexity(texts[960:]) < 1.1 * (4 * 3 * 3) ** (1 / 5)
    assert trigram.perplexity(texts[960:]) > 1.1 * network.perplexity(texts[960:])


def test_learns_real_text():
    speeches = list(corpora.load("state_of_the_union").texts())[:4]
    tokenizer = WordPieceTokenizer.train(speeches, 300)
    network = RecurrentLM(tokenizer, "gru", hidden_dim=32, sequence_length=16)
    history = network.fit(speeches[:3], 16, 2, validation_data=speeches[3:], verbose=0).history
    assert history["val_loss"][1] < history["val_loss"][0] < np.log(300)
    unigram = NGramLM(tokenizer, 1).fit(speeches[:3])
    assert network.perplexity(speeches[3:]) < unigram.perplexity(speeches[3:])


def test_replicas_learn_the_same(replicas):
    alone = model(dropout=0.0)
    alone.fit(TEXTS * 4, batch_size=4, epochs=2, verbose=0)
    with replicas.scope():
        network = model(dropout=0.0)
    history = network.fit(TEXTS * 4, batch_size=4, epochs=2, validation_data=TEXTS, verbose=0)
    battery.assert_close(network.get_weights(), alone.get_weights(), 1e-5)
    assert np.isfinite(history.history["val_loss"]).all()
    assert network.perplexity(TEXTS) == pytest.approx(alone.perplexity(TEXTS), rel=1e-4)
    assert network.generate("a b", 5) == alone.generate("a b", 5)


def test_loss_is_the_logarithm_of_perplexity():
    network = with_random_weights(model(sequence_length=60))
    network.compile()
    loss = network.evaluate(network.examples(["a b c d e f g"]), verbose=0)
    assert np.exp(loss) == pytest.approx(network.perplexity(["a b c d e f g"]), rel=1e-4)


def test_fitting_again_begins_a_new_schedule():
    network = model()
    for _ in range(2):
        before = network.get_weights()
        network.fit(TEXTS, epochs=2, verbose=0)
        assert int(network.optimizer.iterations) == network.optimizer._learning_rate.total_steps
        assert any((b != a).any() for b, a in zip(before, network.get_weights(), strict=True))


def test_a_loaded_model_learns_on(tmp_path):
    network = model()
    network.fit(TEXTS, epochs=2, verbose=0)
    network.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    before = loaded.get_weights()
    loaded.fit(TEXTS, verbose=0)
    assert any((b != a).any() for b, a in zip(before, loaded.get_weights(), strict=True))


def test_compile_keeps_the_optimizer_that_was_asked_for():
    network = model()
    network.compile(keras.optimizers.SGD(0.5))
    network.fit(TEXTS, verbose=0)
    assert isinstance(network.optimizer, keras.optimizers.SGD)
    network = model()
    network.compile()
    assert isinstance(network.optimizer, training.AdamW)
    assert isinstance(network.loss, training.GlobalMeanCrossentropy)


def test_a_long_run_goes_on_after_a_stop(tmp_path):
    def run(epochs, folder):
        network = model()
        network.compile(training.AdamW(0.01))
        examples = network.examples(TEXTS * 5, batch_size=4, epochs=4)
        steps = len(examples) // 4
        training.fit(
            network, examples, folder=folder, epochs=epochs, steps_per_epoch=steps, verbose=0
        )
        return network.get_weights()

    straight = run(4, tmp_path / "straight")
    run(2, tmp_path / "stopped")
    battery.assert_close(run(4, tmp_path / "stopped"), straight)


# === Files ===


@pytest.mark.parametrize(
    ("cell", "dtype"),
    [("rnn", "float32"), ("gru", "float32"), *(("lstm", dtype) for dtype in battery.PRECISIONS)],
)
def test_round_trip(tmp_path, cell, dtype):
    network = model(cell, dropout=0.3, dtype=dtype)
    network.fit(TEXTS, verbose=0)
    network.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert type(loaded) is RecurrentLM
    assert loaded.tokenizer.get_vocabulary() == LETTERS.get_vocabulary()
    assert loaded.dtype_policy.name == dtype
    assert loaded.get_config() == network.get_config()
    assert loaded.perplexity(TEXTS) == network.perplexity(TEXTS)
    assert loaded.generate("a b", 9) == network.generate("a b", 9)
    assert int(loaded.optimizer.iterations) == int(network.optimizer.iterations)


def test_config_holds_every_argument():
    arguments = inspect.signature(RecurrentLM.__init__).parameters
    assert {*arguments} - {"self", "kwargs"} <= model().get_config().keys()


def test_a_file_holds_each_weight_once(tmp_path):
    network = model(num_layers=2)
    network.perplexity(TEXTS)  # makes the network that reads with states
    network.save(tmp_path / "model.keras")
    sizes = {}
    weights = io.BytesIO(zipfile.ZipFile(tmp_path / "model.keras").read("model.weights.h5"))
    with h5py.File(weights) as file:
        file.visititems(lambda name, item: sizes.update({name: getattr(item, "size", 0)}))
    stored = sum(size for name, size in sizes.items() if "seed_generator" not in name)
    assert stored == network.count_params()
    assert len(network.weights) == 2 + 2 * 3


def test_pickle():
    network = model()
    copy = pickle.loads(pickle.dumps(network))
    assert copy.perplexity(TEXTS) == network.perplexity(TEXTS)


def test_precisions_agree():
    network = with_random_weights(model(num_layers=2))
    network.set_weights([w / 3 for w in network.get_weights()])
    expected = battery.numpy(network(np.array([[2, 5, 6, 7]])))
    for dtype, tolerance in battery.PRECISIONS.items():
        other = model(num_layers=2, dtype=dtype)
        other.set_weights(network.get_weights())
        logits = other(np.array([[2, 5, 6, 7]]))
        assert keras.backend.standardize_dtype(logits.dtype) == "float32"
        battery.assert_close(battery.numpy(logits), expected, tolerance)


# === Errors ===


@pytest.mark.parametrize("name", ["hidden_dim", "num_layers", "sequence_length"])
@pytest.mark.parametrize("size", [0, -1, 1.5, None])
def test_wrong_sizes(name, size):
    with pytest.raises(ValueError, match=f"{name} must be a positive integer. Got {size}"):
        model(**{name: size})


def test_wrong_cell():
    with pytest.raises(ValueError, match=r"one of .*rnn.*lstm.*gru.* not 'transformer'"):
        model("transformer")


def test_a_token_table_that_is_too_small():
    with pytest.raises(ValueError, match="has 12 tokens and vocabulary_size is only 11"):
        model(vocabulary_size=11)


def test_wrong_texts_train_nothing():
    network = model()
    before = network.get_weights()
    for wrong, error in (("a b", TypeError), ([], ValueError), (["a", None], TypeError)):
        with pytest.raises(error):
            network.fit(wrong, verbose=0)
        with pytest.raises(error):
            network.fit(TEXTS, validation_data=wrong, verbose=0)
    battery.assert_close(network.get_weights(), before)


def test_a_dataset_is_trained_on_as_it_is():
    network = model()
    network.compile()
    history = network.fit(network.examples(TEXTS, batch_size=2, epochs=1), verbose=0)
    assert isinstance(history, keras.callbacks.History)
    assert isinstance(network.examples(TEXTS), tf.data.Dataset)
