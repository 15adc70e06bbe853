"""Writing beyond the window, and the measures of what is written."""

import itertools

import battery
import keras
import keras_hub
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_llm.generation import RepetitionPenalty
from keras_llm.models import GPT2Backbone, LlamaBackbone
from keras_llm.tasks import Writer, distinct_n, language_model, share_that_parses
from keras_llm.tokenizers import BytePairTokenizer, WordPieceTokenizer

WINDOW = 12
TEXTS = ['He said: "春眠不覺曉", and left.', "to be, or not to be - that is the question"] * 8
SIZES = {"num_layers": 1, "hidden_dim": 12, "intermediate_dim": 20, "max_sequence_length": 64}
TOKENIZERS = {
    "bytes": BytePairTokenizer.train(TEXTS, 300),
    "words": WordPieceTokenizer.train(TEXTS, 60),
}


def make(name="gpt2", tokenizer="bytes", window=WINDOW, sampler="greedy"):
    """A model whose random weights are large enough for every token to count."""
    tokenizer = TOKENIZERS[tokenizer]
    size, rng = tokenizer.vocabulary_size(), np.random.default_rng(1)
    if name == "gpt2":
        backbone = GPT2Backbone(size, num_heads=2, **SIZES)
    else:
        backbone = LlamaBackbone(size, num_query_heads=2, num_key_value_heads=1, **SIZES)
    backbone.set_weights([rng.normal(size=w.shape) * 0.5 for w in backbone.get_weights()])
    model = language_model(backbone, tokenizer, window)
    model.compile(sampler=sampler, run_eagerly=True)
    return model


def naive(model, ids, count, window, stride):
    """Greedy, one token after the other, each from all that stands in its window."""
    ids = list(ids)
    start = 0 if len(ids) < window else len(ids) - (window - stride)
    for _ in range(count):
        if len(ids) - start == window:
            start += stride
        x = {"token_ids": np.array([ids[start:]]), "padding_mask": np.ones((1, len(ids) - start))}
        ids.append(int(battery.numpy(model(x))[0, -1].argmax()))
    return ids


@pytest.mark.parametrize("name", ["gpt2", "llama"])
@pytest.mark.parametrize(("prompt", "stride"), [("to be", 5), ("to be, or not " * 4, 1)])
def test_every_token_is_chosen_from_its_window(name, prompt, stride):
    model = make(name)
    writer, tokenizer = Writer(model, stride), model.tokenizer
    begun = [tokenizer.start_token_id, *tokenizer.encode(prompt)]
    pieces = list(writer._pieces(begun, 15, seed=0, stop_at_end=False))
    assert begun + list(itertools.chain(*pieces)) == naive(model, begun, 15, WINDOW, stride)
    written = writer.write(prompt, 15, stop_at_end=False)
    assert written == tokenizer.decode(begun + list(itertools.chain(*pieces)))


def test_in_a_window_as_long_as_the_text_it_is_plain_generation():
    model = make(window=20, sampler="top_k")
    new = 19 - len(model.tokenizer.encode("to be"))  # beside the start token
    assert Writer(model).write("to be", new, seed=3) == model.generate("to be", seed=3)


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
@pytest.mark.parametrize("sampler", ["greedy", "random"])
def test_what_is_streamed_is_what_is_written(tokenizer, sampler):
    sampler = RepetitionPenalty(sampler, 1.5)
    writer = Writer(make(tokenizer=tokenizer, sampler=sampler), stride=3)
    pieces = list(writer.stream("He said: 春", 20, seed=2, stop_at_end=False))
    assert "".join(pieces) == writer.write("He said: 春", 20, seed=2, stop_at_end=False)
    assert sum(map(bool, pieces)) > 3


def test_stops_where_the_text_ends():
    model = make()
    table = model.backbone.token_embedding.embeddings
    tokenizer, values = model.tokenizer, battery.numpy(table).copy()
    values[tokenizer.end_token_id] = 0.0
    model.backbone.layer_norm.gamma.assign(np.zeros(12))  # nothing but its bias is left
    values[tokenizer.end_token_id] += battery.numpy(model.backbone.layer_norm.beta) * 100
    table.assign(values)
    assert Writer(model).write("to be", 50) == "to be"
    pieces = Writer(model)._pieces([0], 15, seed=0, stop_at_end=False)
    assert sum(map(len, pieces)) == 15


def test_what_cannot_be_written():
    model = make()
    for stride in (0, WINDOW):
        with pytest.raises(ValueError, match=f"stride={stride} must be at least 1"):
            Writer(model, stride)
    with pytest.raises(TypeError, match="one string"):
        Writer(model).stream(["to be"])
    with pytest.raises(ValueError, match="max_new_tokens must be a positive integer"):
        Writer(model).write("to be", 0)


def test_language_models_of_all_decoders():
    tokenizer, sizes = TOKENIZERS["bytes"], {**SIZES, "vocabulary_size": 300}
    gpt2 = keras_hub.models.GPT2Backbone(num_heads=2, **sizes)
    assert type(language_model(gpt2, tokenizer, 8)).__name__ == "GPT2CausalLM"
    del sizes["max_sequence_length"]
    llama = keras_hub.models.LlamaBackbone(num_query_heads=2, num_key_value_heads=1, **sizes)
    assert type(language_model(llama, tokenizer, 8)).__name__ == "LlamaCausalLM"
    with pytest.raises(TypeError, match="Dense is not the decoder"):
        language_model(keras.layers.Dense(3), tokenizer)


# === Measures ===


@given(st.lists(st.text("ab", max_size=9), min_size=1, max_size=4), st.integers(1, 3))
def test_distinct_n_equals_counting(texts, n):
    ngrams = [text[i : i + n] for text in texts for i in range(len(text)) if i + n <= len(text)]
    if not ngrams:
        with pytest.raises(ValueError, match=f"No sequence has {n}"):
            distinct_n(texts, n)
    else:
        assert distinct_n(texts, n) == len(set(ngrams)) / len(ngrams)


def test_distinct_n_of_arrays():
    assert distinct_n(np.array([[1, 2, 1, 2, 1]]), 2) == 0.5
    assert distinct_n([itertools.repeat(7, 10)], 1) == 0.1
    with pytest.raises(ValueError, match="n=0 must be at least 1"):
        distinct_n([[1]], 0)


@pytest.mark.parametrize(
    ("completion", "parses"),
    [
        ("    return x\n", True),
        ("    return x", False),  # not one whole line
        ("\n\n", False),
        ("    return x\n    retur", True),
        ("    if x:\n", True),  # a block, a bracket, a string, a decorator to go on with
        ("    y = g(x,\n", True),
        ('    """What\n    it does\n', True),
        ("    @wraps\n", True),
        ("    try:\n        x\n", True),
        ("    try:\n        x\n    y = 1\n", False),
        ("    return )\n", False),
        ("    y = 1 +\n", False),
        ("    y = (1\n    z = 2\n    z z\n", False),
        ("    y\n  z\n", False),
        ("  y\n        z\n", False),
        ("    return x\n\nclass A:\n    pass\n", True),
        ("    break\n", False),
        ("    x = '\0'\n", False),
    ],
)
def test_what_parses(completion, parses):
    prompt = "def f(x):\n"
    assert share_that_parses([prompt], [prompt + completion]) == parses
    assert share_that_parses([prompt[:-1]], [prompt + completion]) == parses


def test_share_that_parses_needs_its_prompts():
    with pytest.raises(ValueError, match="got 1 and 0"):
        share_that_parses([], ["x\n"])
    with pytest.raises(ValueError, match="does not begin with its prompt"):
        share_that_parses(["def f"], ["def g():\n    pass\n"])
