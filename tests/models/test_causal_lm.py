"""Generation, learning from strings and measuring, of the language models that are decoders."""

import collections
import itertools
import math

import battery
import keras
import keras_hub
import numpy as np
import pytest

from keras_llm.models import (
    GPT2Backbone,
    GPT2CausalLM,
    LlamaBackbone,
    LlamaCausalLM,
    causal_lm,
)

END, LENGTH = 3, 20
STOPS = [END, *range(5, 30, 2)]  # several, so that random models come upon one
SIZES = {"vocabulary_size": 30, "num_layers": 2, "hidden_dim": 12, "intermediate_dim": 20}
GPT2 = {**SIZES, "num_heads": 3, "max_sequence_length": 64}
LLAMA = {**SIZES, "num_query_heads": 6, "num_key_value_heads": 3}
MODELS = {
    "gpt2": (GPT2CausalLM, GPT2Backbone, GPT2),
    "llama": (LlamaCausalLM, LlamaBackbone, LLAMA),
    "keras_hub gpt2": (GPT2CausalLM, keras_hub.models.GPT2Backbone, GPT2),
    "keras_hub llama": (LlamaCausalLM, keras_hub.models.LlamaBackbone, LLAMA),
}

needs_tensorflow = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="needs tf.data"
)


def make(name="gpt2", sampler="greedy", seed=0, **options):
    """A model whose random weights are large enough for every token to count."""
    cls, backbone_cls, sizes = MODELS[name]
    backbone, rng = backbone_cls(**sizes), np.random.default_rng(seed)
    backbone.set_weights([rng.normal(size=w.shape) * 0.5 for w in backbone.get_weights()])
    model = cls(backbone, compile=False)
    model.compile(sampler=sampler, **options)
    return model


def prompts(lengths=(1, 5, 16), side="right", length=LENGTH, seed=0):
    """Prompts of any tokens, stop tokens too, padded with one."""
    rng = np.random.default_rng(seed)
    texts = [rng.integers(0, 30, n) for n in lengths]
    ids = np.full((len(texts), length), END, "int32")
    mask = np.zeros(ids.shape, bool)
    for row, text in enumerate(texts):
        place = slice(len(text)) if side == "right" else slice(length - len(text), None)
        ids[row, place], mask[row, place] = text, True
    return {"token_ids": ids, "padding_mask": mask}


def texts_of(outputs):
    pairs = zip(outputs["token_ids"], outputs["padding_mask"], strict=True)
    return [ids[mask].tolist() for ids, mask in pairs]


def naive(model, x, stops):
    """The same without a cache and a graph: whole texts again for each token."""
    ids, lengths = x["token_ids"].copy(), x["padding_mask"].sum(axis=1)
    rows, stopped = np.arange(len(ids)), lengths == LENGTH
    while not stopped.all():
        mask = np.arange(LENGTH) < lengths[:, None]
        logits = battery.numpy(model({"token_ids": ids, "padding_mask": mask}))
        tokens = logits[rows, lengths - 1].argmax(axis=-1)
        ids[rows[~stopped], lengths[~stopped]] = tokens[~stopped]
        lengths = lengths + ~stopped
        stopped = stopped | np.isin(tokens, stops) | (lengths == LENGTH)
    return [row[:length].tolist() for row, length in zip(ids, lengths, strict=True)]


# === Writing ===


@pytest.mark.parametrize("name", MODELS)
def test_generated_in_a_graph_with_a_cache_equals_naive(name, monkeypatch):
    monkeypatch.setattr(causal_lm, "PROMPT_PIECE", 6)  # so that prompts take several
    model, x = make(name), prompts()
    written = texts_of(model.generate(dict(x), stop_token_ids=STOPS))
    assert written == naive(model, x, STOPS)
    assert any(len(text) < LENGTH for text in written)
    # Prompts padded on the left go on as well.
    left = prompts(side="left")
    assert texts_of(model.generate(left, stop_token_ids=STOPS)) == written


@pytest.mark.parametrize("lengths", [(7, 13, 12), (1, 1, 1), (0, 20, 6), (20, 20, 20)], ids=str)
def test_prompts_of_any_length(lengths, monkeypatch):
    monkeypatch.setattr(causal_lm, "PROMPT_PIECE", 6)
    model, x = make(run_eagerly=True), prompts(lengths)
    expected = {key: array.copy() for key, array in x.items()}
    expected["padding_mask"][:, 0] = True  # without a prompt, the padding is one
    expected["token_ids"][:, 0][np.array(lengths) == 0] = 0
    written = texts_of(model.generate(x, stop_token_ids=STOPS))
    assert written == naive(model, expected, STOPS)


def test_without_stop_tokens_all_are_as_long_as_can_be_in_a_graph():
    model = make()
    outputs = model.generate(prompts(), stop_token_ids=None)
    assert outputs["padding_mask"].all()
    stopped = texts_of(model.generate(prompts(), stop_token_ids=STOPS))
    for whole, text in zip(texts_of(outputs), stopped, strict=True):
        assert whole[: len(text)] == text


@needs_tensorflow
@pytest.mark.parametrize("sampler", ["top_k", "top_p", "random", "beam", "contrastive"])
def test_samplers_of_keras_hub(sampler):
    options = {} if sampler == "top_k" else {"jit_compile": False}  # without XLA too, and quicker
    model, x = make(sampler=sampler, **options), prompts((2, 6))

    def write(seed):
        return texts_of(model.generate(dict(x), stop_token_ids=STOPS, seed=seed))

    first = write(seed=1)
    for prompt, text in zip(texts_of(x), first, strict=True):
        assert text[: len(prompt)] == prompt
        assert not set(STOPS) & set(text[len(prompt) : -1])
    assert write(seed=1) == first
    if sampler in ("top_k", "random"):
        assert write(seed=2) != first
        write(seed=1)
        assert write(seed=None) != first  # goes on drawing


def test_random_texts_have_the_probabilities_of_the_model():
    model = make(sampler=keras_hub.samplers.RandomSampler(temperature=0.7), run_eagerly=True)
    x = {"token_ids": np.array([[5, 9, 0]] * 4000), "padding_mask": np.array([[1, 1, 0]] * 4000)}
    drawn = model.generate(x, stop_token_ids=None)["token_ids"][:, 2]
    logits = battery.numpy(model({k: v[:1, :2] for k, v in x.items()}))[0, 1] / 0.7
    expected = np.exp(logits) / np.exp(logits).sum()
    shares = np.bincount(drawn, minlength=30) / 4000
    assert np.abs(shares - expected).max() < 4 * math.sqrt(0.25 / 4000)


def test_beam_search_finds_the_most_probable_text():
    """Where texts end counts: of a short one, nothing is weighed after its end."""
    prompt, sizes = [1, 2], {**LLAMA, "vocabulary_size": 5}
    texts = [text for n in (1, 2, 3) for text in itertools.product(range(5), repeat=n)]
    texts = [t for t in texts if END not in t[:-1] and (t[-1] == END or len(t) == 3)]
    rows = np.array([[*prompt, *text, *[0] * (3 - len(text))] for text in texts])
    x = {"token_ids": np.array([[*prompt, 0, 0, 0]]), "padding_mask": np.arange(5)[None] < 2}
    found, best = [], []
    for seed in range(6):
        backbone, rng = LlamaBackbone(**sizes), np.random.default_rng(seed)
        backbone.set_weights([rng.normal(size=w.shape) for w in backbone.get_weights()])
        model = LlamaCausalLM(backbone, compile=False)
        model.compile(sampler=keras_hub.samplers.BeamSampler(num_beams=64), run_eagerly=True)
        found += texts_of(model.generate(dict(x), stop_token_ids=[END]))

        logits = model({"token_ids": rows, "padding_mask": np.ones_like(rows, bool)})
        log_p = battery.numpy(keras.ops.log_softmax(logits))
        scores = [
            sum(log_p[row, i + 1, token] for i, token in enumerate(text))
            for row, text in enumerate(texts)
        ]
        best.append([*prompt, *texts[int(np.argmax(scores))]])
    assert found == best
    assert min(map(len, best)) < max(map(len, best)) == 5


def test_too_long_for_the_positions():
    with pytest.raises(ValueError, match=r"up to 65 tokens .* max_sequence_length=64"):
        make().generate(prompts(length=65), stop_token_ids=[END])


# === Strings ===

POEMS = ["春眠不覺曉，處處聞啼鳥。", "床前明月光，疑是地上霜。"]


@pytest.fixture(scope="module")
def tokenizer():
    from keras_llm.tokenizers import BytePairTokenizer

    return BytePairTokenizer.train(POEMS * 8, 283)  # start, end and padding are one token


def string_model(tokenizer, replicas=None, name="gpt2", sequence_length=40, **options):
    cls, backbone_cls, sizes = MODELS[name]
    preprocessor = keras_hub.models.CausalLMPreprocessor(tokenizer, sequence_length)
    with replicas.scope() if replicas else keras.name_scope(""):
        keras.utils.set_random_seed(0)
        sizes = {**sizes, "vocabulary_size": tokenizer.vocabulary_size(), "dropout": 0.0}
        model = cls(backbone_cls(**sizes), preprocessor, compile=False)
        model.compile(keras.optimizers.SGD(0.5), sampler="greedy", **options)
    return model


@needs_tensorflow
def test_learns_strings_and_writes_them(tokenizer, tmp_path):
    model = string_model(tokenizer)
    model.compile(keras.optimizers.Adam(1e-2), sampler="greedy", jit_compile=False)
    history = model.fit(
        POEMS * 8, batch_size=8, epochs=25, validation_data=POEMS, verbose=0
    ).history
    assert len(history["loss"]) == 25 and history["val_accuracy"][-1] > 0.9
    assert model.generate(["床", "春眠"]) == POEMS[::-1]
    assert model.generate("床前", strip_prompt=True) == POEMS[1][2:]
    assert len(tokenizer.encode(model.generate("床", max_length=9))) <= 8

    measured = model.evaluate(POEMS, verbose=0)
    assert measured["perplexity"] == pytest.approx(math.exp(measured["loss"]), rel=1e-4)
    assert model.perplexity(POEMS) == pytest.approx(measured["perplexity"], rel=1e-4)

    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert type(loaded.sampler) is keras_hub.samplers.GreedySampler
    assert loaded.generate("床") == POEMS[1]


@needs_tensorflow
def test_packed_texts_and_dialogues_are_those_of_the_objectives(tokenizer):
    from keras_llm import objectives

    model = string_model(tokenizer, sequence_length=24)
    dialogues = [[text, text[:n]] for text in POEMS for n in (2, 5)]
    for texts, make, packed in (
        (POEMS * 2, objectives.causal_lm_examples, True),
        (dialogues, objectives.dialogue_examples, False),
    ):
        batches = make(texts, tokenizer, 2, 24, training=False)
        rows = sum(len(weight) for _, _, weight in batches)
        assert model.num_rows(texts, packed) == rows > 3
        expected = model.evaluate(batches, verbose=0)
        assert model.evaluate(texts, batch_size=2, packed=packed, verbose=0) == expected
        arguments = {"batch_size": 2, "packed": packed, "validation_data": (texts,)}
        history = model.fit(texts, epochs=2, verbose=0, **arguments)
        assert history.history["val_loss"][1] < expected["loss"]
        assert int(model.optimizer.iterations.numpy()) > 0
    assert model.num_rows(POEMS) == 2


@needs_tensorflow
def test_serves_what_it_generates(tokenizer):
    import tensorflow as tf

    model = string_model(tokenizer, sequence_length=16)
    texts = ["床", "春眠", "", "a text that is longer than the model can read"]
    serve = tf.function(model.serve, input_signature=[tf.TensorSpec([None], tf.string)])
    served = serve(tf.constant(texts))["text"].numpy()
    assert [text.decode() for text in served[:3]] == model.generate(texts[:3])
    assert texts[3].startswith(served[3].decode()[:8])
    assert serve(tf.constant([], tf.string))["text"].shape == (0,)


@needs_tensorflow
def test_order_of_texts_depends_on_the_seed_alone(tokenizer):
    texts = [POEMS[0][i:] for i in range(6)] + [POEMS[1][i:] for i in range(5)]

    def weights(seed):
        model = string_model(tokenizer)
        model.fit(texts, batch_size=2, epochs=2, seed=seed, verbose=0)
        return model.get_weights()

    first = weights(0)
    assert all((a == b).all() for a, b in zip(first, weights(0), strict=True))
    assert any((a != b).any() for a, b in zip(first, weights(1), strict=True))


@needs_tensorflow
@pytest.mark.parametrize("packed", [False, True])
def test_two_replicas_learn_as_one(tokenizer, packed):
    import tensorflow as tf

    from keras_llm import objectives, training

    texts = [text[i:] for text in POEMS for i in range(8)]  # unevenly long: unevenly padded
    trained = []
    for replicas in (tf.distribute.get_strategy(), training.strategy()):
        model = string_model(tokenizer, replicas)
        data, arguments = texts, {"batch_size": 4}
        if packed:
            data = objectives.causal_lm_examples(texts, tokenizer, 4, sequence_length=24)
            arguments = {"steps_per_epoch": 4}
        model.fit(data, epochs=2, verbose=0, **arguments)
        trained.append(model)
    for one, two in zip(*(model.get_weights() for model in trained), strict=True):
        np.testing.assert_allclose(one, two, atol=2e-5)
    # Generation reads mirrored variables too.
    assert trained[1].generate(["床", "春"]) == trained[0].generate(["床", "春"])


@needs_tensorflow
def test_documents_of_a_packed_row_do_not_see_each_other(tokenizer):
    from keras_llm import objectives

    model = string_model(tokenizer)
    (x, y, weight), *_ = objectives.causal_lm_examples(
        POEMS, tokenizer, 1, sequence_length=64, training=False
    )
    logits = battery.numpy(model(x))
    log_p = battery.numpy(keras.ops.log_softmax(logits))
    found = np.take_along_axis(log_p, y.numpy()[..., None], axis=-1)[..., 0][weight.numpy() > 0]
    # The second begins in the middle of the row, but each is read as if it stood alone.
    expected = np.concatenate(model.log_probabilities(model.frame(POEMS)))
    battery.assert_close(found, expected, 1e-4)


@needs_tensorflow
def test_keras_hubs_backbone_has_no_documents():
    x = {**prompts((5, 7)), "segment_ids": np.zeros((2, LENGTH), "int32")}
    with pytest.raises(ValueError, match=r"GPT2Backbone has no segment_ids.*across_documents"):
        make("keras_hub gpt2")(x)


@needs_tensorflow
@pytest.mark.parametrize(
    ("texts", "error", "message"),
    [
        ("one string", TypeError, "put it in a list"),
        ([], ValueError, "no texts"),
        (["a", 3], TypeError, r"texts\[1\] is 3"),
    ],
)
def test_wrong_texts(tokenizer, texts, error, message):
    with pytest.raises(error, match=message):
        string_model(tokenizer).fit(texts)


@needs_tensorflow
def test_parts_that_do_not_fit(tokenizer):
    preprocessor = keras_hub.models.CausalLMPreprocessor(tokenizer, 100)
    with pytest.raises(ValueError, match=r"up to 100 tokens .* max_sequence_length=64"):
        GPT2CausalLM(GPT2Backbone(**{**GPT2, "vocabulary_size": 283}), preprocessor)
    with pytest.raises(ValueError, match="tokenizer has 283 tokens and the backbone only 30"):
        GPT2CausalLM(GPT2Backbone(**GPT2), preprocessor)
    with pytest.raises(ValueError, match="the model has no preprocessor"):
        make().fit(POEMS)


# === Measuring ===


@pytest.mark.parametrize("length", [9, 10, 11, 15, 37])
def test_probabilities_of_texts_longer_than_the_positions(length):
    cls, backbone_cls, sizes = MODELS["gpt2"]
    model = cls(backbone_cls(**{**sizes, "max_sequence_length": 10}))
    rng = np.random.default_rng(0)
    model.set_weights([rng.normal(size=w.shape) for w in model.get_weights()])
    ids = rng.integers(0, 30, length)

    def expected(i):  # of token i, in the window that has at least half its positions before i
        start = 0 if i <= 10 else -(-(i - 10) // 5) * 5
        x = {"token_ids": ids[None, start:i], "padding_mask": np.ones((1, i - start), bool)}
        return battery.numpy(keras.ops.log_softmax(model(x)))[0, -1, ids[i]]

    found, short = model.log_probabilities([ids, ids[:4]])
    battery.assert_close(found, np.array([expected(i) for i in range(1, length)]), 1e-4)
    battery.assert_close(short, found[:3], 1e-4)


def test_logits_are_float32_in_every_precision():
    x = prompts((5, 9))
    for dtype in battery.PRECISIONS:
        cls, backbone_cls, sizes = MODELS["gpt2"]
        model = cls(backbone_cls(**sizes, dtype=dtype))
        assert keras.backend.standardize_dtype(model(x).dtype) == "float32"
        assert keras.backend.standardize_dtype(model.output.dtype) == "float32"
        model.compile(sampler="greedy", run_eagerly=True)
        assert model.generate(dict(x), stop_token_ids=[END])["token_ids"].shape == (2, LENGTH)


@needs_tensorflow
@pytest.mark.parametrize(("name", "steps"), [("gpt2", 150), ("llama", 75)])
def test_learns_more_than_frequencies_of_real_texts(name, steps):
    """Loss of held-out texts below the entropy of their tokens, within seconds."""
    from keras_llm import corpora, objectives, training
    from keras_llm.tokenizers import WordPieceTokenizer

    addresses = corpora.load("state_of_the_union")
    texts = list(itertools.islice(addresses.train.texts(), 40))
    held_out = list(itertools.islice(addresses.validation.texts(), 2))
    tokenizer = WordPieceTokenizer.train(texts, 1000)
    counts = collections.Counter(i for ids in tokenizer.encode_batch(held_out) for i in ids)
    shares = np.array(list(counts.values())) / counts.total()
    entropy = -(shares * np.log(shares)).sum()

    cls, backbone_cls, sizes = MODELS[name]
    sizes = {**sizes, "num_layers": 1, "vocabulary_size": 1000}
    sizes |= {"hidden_dim": 60, "intermediate_dim": 120, "dropout": 0.0}
    keras.utils.set_random_seed(0)
    model = cls(backbone_cls(**sizes), compile=False)
    model.compile(training.AdamW(training.WarmupLinearDecay(5e-3, steps)))
    model.fit(
        objectives.causal_lm_examples(texts, tokenizer, 16, sequence_length=64),
        steps_per_epoch=steps,
        verbose=0,
    )
    loss = model.evaluate(
        objectives.causal_lm_examples(held_out, tokenizer, 16, 64, training=False), verbose=0
    )["loss"]
    assert loss < entropy - 0.3, (loss, entropy)
