import inspect
import io
import zipfile

import battery
import h5py
import keras
import keras_hub
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_llm.models import XLNetBackbone, XLNetForPretraining, mimetic_initialization

SIZES = {
    "vocabulary_size": 30,
    "num_layers": 2,
    "num_heads": 3,
    "hidden_dim": 12,
    "intermediate_dim": 20,
}
SMALLEST = {**SIZES, "num_layers": 1}
LENGTH = 7


def randomized(model, seed=0):
    """Weights so large that whatever counts is seen."""
    rng = np.random.default_rng(seed)
    model.set_weights([rng.normal(size=w.shape, scale=0.4) for w in model.get_weights()])
    return model


@pytest.fixture(scope="module")
def backbone():
    return randomized(XLNetBackbone(**SIZES))


@pytest.fixture(scope="module")
def model():
    return randomized(XLNetForPretraining(XLNetBackbone(**SIZES)))


def texts(batch=3, length=LENGTH, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "token_ids": rng.integers(0, 30, (batch, length), dtype="int32"),
        "segment_ids": rng.integers(0, 3, (batch, length), dtype="int32"),
        "padding_mask": np.ones((batch, length), bool),
    }


def examples(batch=3, length=LENGTH, predictions=2, seed=0):
    """A batch as the objective makes it: inputs and targets."""
    rng = np.random.default_rng(seed)
    order = np.argsort(rng.random((batch, length)))
    x = texts(batch, length, seed) | {
        "attention_mask": order[:, :, None] > order[:, None, :],
        "mask_positions": rng.integers(0, length, (batch, predictions), dtype="int32"),
    }
    return x, rng.integers(0, 30, (batch, predictions), dtype="int32")


def train(model, x, y, steps=1):
    """Takes compiled steps on one batch; returns the losses."""
    return [float(keras.Model.train_on_batch(model, x, y)[0]) for _ in range(steps)]


# KerasHub's `fit` and `predict` make a dataset, which needs `grain` where TensorFlow is missing.
needs_dataset = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="needs tf.data")


# === XLNetBackbone ===


def test_arguments_inputs_and_output_of_keras_hubs():
    ours = inspect.signature(XLNetBackbone.__init__).parameters
    theirs = inspect.signature(keras_hub.models.XLNetBackbone.__init__).parameters
    fixed_by_us = {"kernel_initializer_range", "bias_initializer"}
    assert list(ours) == [name for name in theirs if name not in fixed_by_us]
    theirs = keras_hub.models.XLNetBackbone(**SIZES)
    assert XLNetBackbone(**SIZES).input.keys() == theirs.input.keys()
    assert XLNetBackbone(**SIZES).output.shape == theirs.output.shape


@pytest.mark.parametrize(("name", "millions"), [("base", 117), ("large", 361)])
def test_published_sizes(name, millions):
    with keras.StatelessScope(initialize_variables=False):  # shapes only: large is 1.4 GB
        backbone = getattr(XLNetBackbone, name)(vocabulary_size=32000)
        count = backbone.count_params()
    keras.utils.clear_session()  # or Keras would initialize the variables later on
    assert count == pytest.approx(millions * 1e6, rel=0.005)

    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    config = transformers.XLNetConfig(
        vocab_size=32000,
        d_model=backbone.hidden_dim,
        n_layer=backbone.num_layers,
        n_head=backbone.num_heads,
        d_inner=backbone.intermediate_dim,
    )
    with torch.device("meta"):
        theirs = transformers.XLNetModel(config).num_parameters()
    assert count == theirs - backbone.hidden_dim  # what their query stream begins with


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(backbone, side):
    x = texts()
    widths = ((0, 0), (3, 0) if side == "left" else (0, 3))
    padded = {name: np.pad(array, widths) for name, array in x.items()}
    padded["token_ids"] += np.where(padded["padding_mask"], 0, 5).astype("int32")
    place = slice(3, None) if side == "left" else slice(LENGTH)
    battery.assert_close(
        battery.numpy(backbone(padded))[:, place], battery.numpy(backbone(x)), 1e-5
    )


def test_every_input_counts(backbone):
    x = texts()
    before = battery.numpy(backbone(x))[:, 0]
    changes = {
        "token_ids": (x["token_ids"] + 1) % 30,
        "segment_ids": x["segment_ids"] * np.arange(LENGTH),
        "padding_mask": np.arange(LENGTH) < 2 + np.zeros((3, 1)),
    }
    for name, array in changes.items():
        after = battery.numpy(backbone(x | {name: array}))[:, 0]
        assert np.abs(after - before).max() > 1e-3, name


def test_order_counts(backbone):
    x = texts() | {"segment_ids": np.zeros((3, LENGTH))}
    mirrored = x | {"token_ids": x["token_ids"][:, ::-1]}
    difference = battery.numpy(backbone(x)) - battery.numpy(backbone(mirrored))[:, ::-1]
    assert np.abs(difference).max() > 1e-2


def test_segments_are_the_same_or_different_whatever_their_numbers(backbone):
    x = texts()
    renamed = x | {"segment_ids": np.array([4, 9, 1])[x["segment_ids"]]}
    battery.assert_close(battery.numpy(backbone(renamed)), battery.numpy(backbone(x)))


def test_backbone_round_trip(backbone, tmp_path):
    copy = XLNetBackbone(**SIZES, dropout=0.2, activation="relu")
    copy = XLNetBackbone.from_config(copy.get_config())
    assert copy.get_config().items() >= {**SIZES, "dropout": 0.2, "activation": "relu"}.items()
    backbone.save(tmp_path / "backbone.keras")
    loaded = keras.models.load_model(tmp_path / "backbone.keras")
    assert type(loaded) is XLNetBackbone
    battery.assert_close(battery.numpy(loaded(texts())), battery.numpy(backbone(texts())))


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("size", [0, 1.5])
def test_wrong_sizes(name, size):
    with pytest.raises(ValueError, match=f"{name} must be a positive integer. Got {size}"):
        XLNetBackbone(**{**SIZES, name: size})


def test_heads_that_do_not_divide():
    with pytest.raises(ValueError, match="hidden_dim=12, num_heads=5"):
        XLNetBackbone(**{**SIZES, "num_heads": 5})


# === Memory ===


def one_pass(pieces, memory_length, within):
    """The mask of a single pass in which each piece sees itself and what its memory would hold."""
    length = sum(pieces)
    mask = np.zeros((length, length), bool)
    start = 0
    for piece in pieces:
        end = start + piece
        mask[start:end, max(0, start - memory_length) : start] = True
        mask[start:end, start:end] = within(piece)
        start = end
    return mask


def left_to_right(length):
    return np.tri(length, dtype=bool)


def both_sides(length):
    return np.ones((length, length), bool)


def in_pieces(x, pieces):
    """Cuts every array of a batch into pieces of the text."""
    ends = np.cumsum(pieces)
    for start, end in zip(ends - pieces, ends, strict=True):
        yield {name: array[:, start:end] for name, array in x.items()}


@settings(max_examples=5, deadline=None)
@given(
    pieces=st.lists(st.integers(1, 5), min_size=2, max_size=4),
    memory_length=st.integers(1, 9),
    within=st.sampled_from([left_to_right, both_sides]),
    seed=st.integers(0, 99),
)
def test_reading_with_memory_is_one_long_pass(backbone, pieces, memory_length, within, seed):
    """Also with padding on either side, and segments."""
    x = texts(length=sum(pieces), seed=seed)
    x["padding_mask"][1, :2] = x["padding_mask"][2, -2:] = False
    mask = np.stack([one_pass(pieces, memory_length, within)] * 3)
    expected, _ = backbone.encode(x | {"attention_mask": mask})

    read, memory = [], None
    for piece, length in zip(in_pieces(x, pieces), pieces, strict=True):
        piece["attention_mask"] = np.stack([within(length)] * 3)
        vectors, memory = backbone.encode(piece, memory, memory_length)
        read.append(battery.numpy(vectors))
    battery.assert_close(np.concatenate(read, axis=1), battery.numpy(expected), 1e-4)
    assert memory["states"].shape[1] == min(memory_length, sum(pieces))


def test_predicting_with_memory_is_one_long_pass(model):
    """Each token from those to its left: the query stream, piece by piece, and all at once."""
    pieces, (x, _) = [3, 1, 4], examples(length=8)
    x = {name: x[name] for name in ("token_ids", "segment_ids", "padding_mask")}
    mask = np.stack([one_pass(pieces, 8, left_to_right)] * 3)
    everywhere = np.tile(np.arange(8), (3, 1))
    expected = model(x | {"attention_mask": mask, "mask_positions": everywhere})
    logits, memory = [], None
    for piece, length in zip(in_pieces(x, pieces), pieces, strict=True):
        piece["attention_mask"] = np.stack([left_to_right(length)] * 3)
        piece["mask_positions"] = everywhere[:, :length]
        of_piece, memory = model.call_with_memory(piece, memory)
        logits.append(battery.numpy(of_piece))
    battery.assert_close(np.concatenate(logits, axis=1), battery.numpy(expected), 1e-4)


def test_a_call_is_reading_without_memory_in_a_graph(backbone):
    x = texts()
    read = battery.compiled(lambda x: backbone.encode(x)[0])
    battery.assert_close(battery.numpy(read(x)), battery.numpy(backbone(x)), 1e-5)


def test_no_gradient_flows_into_the_memory(backbone):
    x = texts()
    scale = np.float32(1.0)

    def loss(scale):
        table = backbone.token_embedding.embeddings
        states = [keras.ops.take(table, x["token_ids"], axis=0) * scale] * 2
        return keras.ops.sum(backbone.remember(x, states)["states"]) + 3 * scale

    assert battery.gradients(loss, scale)[0] == 3


def test_a_memory_of_no_positions_is_refused(backbone):
    with pytest.raises(ValueError, match=r"memory_length must be a positive integer. Got 0"):
        backbone.encode(texts(), memory_length=0)


@pytest.mark.parametrize("piece_length", [1, 3, 8])
def test_log_probabilities_are_those_of_each_token_after_its_whole_past(model, piece_length):
    ids = texts(batch=2, length=8)["token_ids"]
    actual = battery.numpy(model.log_probabilities(ids, piece_length))
    for position in range(8):
        x = texts(batch=2, length=position + 1) | {"token_ids": ids[:, : position + 1]}
        x["segment_ids"] = np.zeros_like(x["token_ids"])
        x["attention_mask"] = np.stack([left_to_right(position + 1)] * 2)
        x["mask_positions"] = np.full((2, 1), position)
        logits = battery.numpy(model(x))[:, 0].astype("float64")
        log_p = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
        expected = np.take_along_axis(log_p, ids[:, position, None], axis=-1)[:, 0]
        battery.assert_close(actual[:, position], expected, 1e-4)


# === XLNetForPretraining ===


def test_a_query_sees_what_precedes_it_in_the_order_and_nothing_else(model):
    """Changing one token changes exactly the predictions of those after it; never its own."""
    x, _ = examples(batch=1, seed=3)
    x["mask_positions"] = np.arange(LENGTH)[None]
    logits = battery.numpy(model(x))[0]
    for changed in range(LENGTH):
        ids = x["token_ids"].copy()
        ids[0, changed] = (ids[0, changed] + 1) % 30
        difference = np.abs(battery.numpy(model(x | {"token_ids": ids}))[0] - logits).max(axis=-1)
        after = x["attention_mask"][0, :, changed]  # those that may attend to it
        assert (difference[after] > 1e-4).all()
        assert (difference[~after] == 0).all()


def test_the_content_stream_sees_itself(backbone):
    x = texts(batch=1) | {"attention_mask": np.zeros((1, LENGTH, LENGTH), bool)}
    before, _ = backbone.encode(x)
    x["token_ids"] = x["token_ids"].copy()
    x["token_ids"][0, 2] = (x["token_ids"][0, 2] + 1) % 30
    after, _ = backbone.encode(x)
    difference = np.abs(battery.numpy(after) - battery.numpy(before))[0].max(axis=-1)
    assert difference[2] > 1e-2 and not np.delete(difference, 2).any()


def test_a_query_never_sees_itself_whatever_the_mask(model):
    x, _ = examples(batch=1)
    x |= {"attention_mask": np.ones((1, LENGTH, LENGTH), bool), "mask_positions": np.array([[2]])}
    without = x | {"attention_mask": ~np.eye(LENGTH, dtype=bool)[None]}
    battery.assert_close(battery.numpy(model(x)), battery.numpy(model(without)))


def test_predictions_are_those_of_their_positions(model):
    x, _ = examples(predictions=4)
    everywhere = x | {"mask_positions": np.tile(np.arange(LENGTH, dtype="int32"), (3, 1))}
    logits = battery.numpy(model(everywhere))
    expected = np.take_along_axis(logits, x["mask_positions"][:, :, None], axis=1)
    battery.assert_close(battery.numpy(model(x)), expected, 1e-5)


def test_token_embedding_is_tied(model):
    assert model.head.token_embedding is model.backbone.token_embedding
    assert sum(tuple(w.shape) == (30, 12) for w in model.weights) == 1
    x, _ = examples()
    outputs, bias = battery.numpy(model(x)), battery.numpy(model.head.bias.value)
    model.head.bias.assign(bias + np.arange(30.0))
    battery.assert_close(battery.numpy(model(x)), outputs + np.arange(30, dtype="float32"), 1e-5)
    model.head.bias.assign(bias)


def test_model_in_a_graph_of_any_length_is_the_model(model):
    run = battery.compiled(lambda x: model(x))
    for length, predictions in ((5, 1), (9, 4)):
        x, _ = examples(length=length, predictions=predictions)
        battery.assert_close(battery.numpy(run(x)), battery.numpy(model(x)), 1e-5)


@pytest.mark.parametrize("dtype", battery.PRECISIONS)
def test_trains_and_round_trips_in_every_precision(tmp_path, dtype):
    keras.utils.set_random_seed(0)
    model = XLNetForPretraining(XLNetBackbone(**SMALLEST, dropout=0.0, dtype=dtype))
    x, y = examples()
    model.compile(keras.optimizers.SGD(1e-1, momentum=0.9))
    losses = train(model, x, y, steps=5)
    assert np.isfinite(losses).all() and losses[-1] < losses[0]

    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert type(loaded) is XLNetForPretraining
    logits = model(x)
    assert keras.backend.standardize_dtype(logits.dtype) == "float32"
    battery.assert_close(battery.numpy(loaded(x)), battery.numpy(logits))
    # With the optimizer's state, training goes on as if nothing had happened.
    assert int(loaded.optimizer.iterations) == 5
    train(model, x, y)
    train(loaded, x, y)
    battery.assert_close(loaded.get_weights(), model.get_weights(), 1e-7)


def test_precisions_agree():
    model, (x, _) = XLNetForPretraining(XLNetBackbone(**SMALLEST)), examples()
    expected = battery.numpy(model(x))
    for dtype, tolerance in battery.PRECISIONS.items():
        other = XLNetForPretraining(XLNetBackbone(**SMALLEST, dtype=dtype))
        other.set_weights(model.get_weights())
        battery.assert_close(battery.numpy(other(x)), expected, tolerance)


def test_a_file_holds_each_weight_once(model, tmp_path):
    model.save(tmp_path / "model.keras")
    sizes = {}
    weights = io.BytesIO(zipfile.ZipFile(tmp_path / "model.keras").read("model.weights.h5"))
    with h5py.File(weights) as file:
        file.visititems(lambda name, item: sizes.update({name: getattr(item, "size", 0)}))
    stored = sum(
        size
        for name, size in sizes.items()
        if "seed_generator" not in name and not name.startswith("optimizer")
    )
    assert stored == model.count_params()


def test_every_weight_learns(model):
    x, y = examples()
    before = model.get_weights()
    model.compile(keras.optimizers.SGD(1.0))
    train(model, x, y)
    for weight, old in zip(model.weights, before, strict=True):
        assert not np.array_equal(battery.numpy(weight.value), old), weight.path
    model.set_weights(before)


@needs_dataset
def test_default_loss_ignores_unused_slots():
    model, (x, y) = XLNetForPretraining(XLNetBackbone(**SMALLEST, dropout=0.0)), examples()
    weights = np.array([[1, 0], [1, 1], [0, 0]], "float32")
    loss = model.evaluate(x, y, sample_weight=weights, verbose=0)[0]
    logits = battery.numpy(model(x)).astype("float64")
    chosen = np.take_along_axis(logits, y[:, :, None], axis=-1)[:, :, 0]
    losses = np.log(np.exp(logits).sum(axis=-1)) - chosen
    assert loss == pytest.approx((losses * weights).sum() / weights.sum(), rel=1e-5)


# === On real text ===


@needs_dataset
def test_guesses_real_text_better_than_by_the_frequency_of_its_tokens():
    """Held-out speeches, seconds of training: their own unigram entropy is undercut."""
    from keras_llm import corpora, objectives, training
    from keras_llm.tokenizers import WordPieceTokenizer

    speeches = corpora.load("state_of_the_union")
    tokenizer = WordPieceTokenizer.train(list(speeches.test.texts()), 500)

    def examples(corpus, batch_size, **kwargs):
        return objectives.permutation_lm_examples(corpus, tokenizer, batch_size, 64, **kwargs)

    keras.utils.set_random_seed(0)
    model = XLNetForPretraining(XLNetBackbone(500, 1, 4, 64, 256, dropout=0.0))
    mimetic_initialization(model.backbone)
    model.compile(training.AdamW(training.WarmupLinearDecay(5e-3, total_steps=150)))
    model.fit(examples(list(speeches.train)[::9], 32), steps_per_epoch=150, verbose=0)

    held_out = examples(list(speeches.validation)[:4], 64, training=False)
    tokens = np.concatenate([np.ravel(x["token_ids"]) for x, _, _ in held_out])
    tokens = tokens[~np.isin(tokens, tokenizer.special_token_ids)]
    shares = np.unique(tokens, return_counts=True)[1] / len(tokens)
    entropy = -(shares * np.log(shares)).sum()
    loss = model.evaluate(held_out, verbose=0)[0]
    assert loss < entropy - 0.2, (loss, entropy)


@pytest.mark.parametrize(("memory", "piece"), [(3, 1), (20, 5)])
def test_writes_the_most_probable_with_the_past_in_memory(memory, piece):
    size = 12
    model = XLNetForPretraining(XLNetBackbone(size, 2, 2, 8, 16, dropout=0.0))
    rng = np.random.default_rng(0)
    model.set_weights([rng.normal(size=w.shape) * 0.7 for w in model.get_weights()])
    prompts = rng.integers(0, size, (2, 7))
    written = battery.numpy(
        model.generate(prompts, 12, "greedy", memory_length=memory, piece_length=piece)
    )
    assert (written[:, :7] == prompts).all()
    for i in range(7, 12):  # in a single pass that masks what is forgotten
        row, column = np.indices((i + 1, i + 1))
        seen = (column <= row) & (column >= row - memory - (row == i))
        ids = written[:, : i + 1]
        x = {
            "token_ids": np.where(np.arange(i + 1) < i, ids, 0),
            "segment_ids": np.zeros_like(ids),
            "padding_mask": np.ones_like(ids, bool),
            "attention_mask": np.repeat(seen[None], 2, axis=0),
            "mask_positions": np.full((2, 1), i),
        }
        assert (battery.numpy(model(x))[:, 0].argmax(axis=-1) == ids[:, i]).all()
    drawn = [model.generate(prompts, 9, "random", seed=seed) for seed in (1, 1, 2)]
    drawn = [battery.numpy(texts).tolist() for texts in drawn]
    assert drawn[0] == drawn[1] != drawn[2]


def test_what_cannot_be_gone_on_with():
    model = XLNetForPretraining(XLNetBackbone.tiny(20))
    with pytest.raises(ValueError, match="1 to 4 tokens; got 5"):
        model.generate(np.ones((1, 5), int), max_length=4)
    with pytest.raises(ValueError, match="1 to 4 tokens; got 0"):
        model.generate(np.ones((1, 0), int), max_length=4)
    with pytest.raises(ValueError, match="memory_length must be a positive integer"):
        model.generate(np.ones((1, 2), int), max_length=4, memory_length=0)
