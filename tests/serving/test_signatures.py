"""All ways to ask an export have the same answer, in a process without Keras and this package."""

import keras_hub
import numpy as np
import pytest
import tensorflow as tf
from served import TASKS, TEXTS, classifier, columns

from keras_llm import serving
from keras_llm.serving.signatures import RequestSampler, signatures


@pytest.mark.parametrize("name", TASKS)
def test_signatures_agree(exports, name):
    _, version = exports(name)
    served = serving.check(version, columns(name))  # raises where signatures differ
    # A server that batches gives each request its rows of the answer.
    assert {len(rows) for rows in served.values()} == {len(TEXTS)}
    loaded = tf.saved_model.load(version).signatures
    expected = {"serving_default", "examples", "tokenize", "tokens"}
    writes = name in ("decoder", "summarizer", "translator")
    assert set(loaded) == expected | ({"generate"} if writes else set())


def test_token_scores_of_questions_are_the_models(exports):
    model, version = exports("answerer")
    loaded = tf.saved_model.load(version).signatures
    read = loaded["tokenize"](
        question=tf.constant(["who saw?"]), context=tf.constant(["a film " * 30])
    )
    assert read["token_ids"].shape[0] > 1  # windows
    served = loaded["tokens"](**read)
    expected = model(read, training=False).numpy()  # (windows, 2, length)
    np.testing.assert_allclose(served["start_logits"], expected[:, 0], atol=1e-5)
    np.testing.assert_allclose(served["end_logits"], expected[:, 1], atol=1e-5)


def test_numbers_of_tags_are_their_places(exports):
    model, version = exports("tagger")
    loaded = tf.saved_model.load(version).signatures
    served = loaded["tokens"](**loaded["tokenize"](text=tf.constant(TEXTS)))
    numbers = served["window_tag_numbers"].numpy()
    assert -1 in numbers and numbers.max() >= 0
    names = [[model.tags[n].encode() if n >= 0 else b"" for n in row] for row in numbers]
    assert names == served["window_tags"].numpy().tolist()


# === generate ===


def generate(version, prompts, **options):
    asked = {"max_new_tokens": 8, "temperature": 0.0, "top_k": 0, "top_p": 1.0, "seed": 0} | options
    served = tf.saved_model.load(version).signatures["generate"]
    columns = {
        name: tf.constant(
            np.broadcast_to(value, len(prompts)), served.structured_input_signature[1][name].dtype
        )
        for name, value in asked.items()
    }
    answer = served(prompt=tf.constant(prompts), **columns)
    return [text.decode() for text in answer["text"].numpy()], answer["new_tokens"].numpy().tolist()


def test_generate_without_temperature_is_greedy(exports):
    model, version = exports("decoder")
    texts, counts = generate(version, ["a good", "film", ""], max_new_tokens=99)
    assert texts == model.generate(["a good", "film", ""])
    assert max(counts) <= 23


def test_generate_stops_at_each_texts_own_limit(exports):
    model, version = exports("decoder")
    texts, counts = generate(version, ["a good", "a good", "film"], max_new_tokens=[1, 5, 0])
    whole = model.generate("a good")
    assert counts[0] <= 1 and counts[1] <= 5 and counts[2] == 0
    assert texts[2] == "film"
    assert whole.startswith(texts[1]) and texts[1].startswith(texts[0])


def test_generate_draws_by_the_seed_alone(exports):
    _, version = exports("decoder")
    options = {"temperature": 1.0, "max_new_tokens": 8}
    texts, _ = generate(version, ["a", "good film", "a", "a"], seed=[1, 2, 1, 3], **options)
    assert texts[0] == texts[2] != texts[3]
    assert generate(version, ["a"], seed=1, **options)[0] == texts[:1]


def test_generate_from_the_most_probable_token_alone_is_greedy(exports):
    _, version = exports("decoder")
    greedy = generate(version, ["a good", "film"])
    assert generate(version, ["a good", "film"], temperature=2.0, top_k=1, seed=5) == greedy
    assert generate(version, ["a good", "film"], temperature=2.0, top_p=1e-6, seed=5) == greedy


@pytest.mark.parametrize("name", ["summarizer", "translator"])
def test_generate_from_another_text(exports, name):
    model, version = exports(name)
    sources = ["a good film", "the naïve film", ""]
    texts, counts = generate(version, sources, max_new_tokens=99)
    assert texts == model.write(sources, num_beams=1) and max(counts) <= model.target_length
    limits = [2, 0, 1]
    shorter, counts = generate(version, sources, max_new_tokens=limits)
    assert all(count <= limit for count, limit in zip(counts, limits, strict=True))
    assert all(whole.startswith(text) for whole, text in zip(texts, shorter, strict=True))
    options = {"temperature": 2.0, "max_new_tokens": 6}
    drawn, _ = generate(version, ["film"] * 4, seed=[1, 2, 1, 3], **options)
    assert drawn[0] == drawn[2] and len(set(drawn)) > 1
    assert generate(version, ["film"], seed=1, **options)[0] == drawn[:1]


@pytest.mark.parametrize(
    ("top_k", "top_p", "kept"), [(0, 1.0, 4), (2, 1.0, 2), (0, 0.5, 1), (0, 0.85, 3), (3, 0.65, 2)]
)
def test_draws_have_the_probabilities_of_the_softmax(top_k, top_p, kept):
    """4,000 rows with seeds of their own draw one token each."""
    rows, probabilities = 4000, np.array([0.2, 0.6, 0.1, 0.1 - 1e-6])  # no tie at a limit

    def next_logits(prompt, cache, index):
        logits = 2 * np.log(probabilities).astype("float32")
        return tf.tile(logits[None], (rows, 1)), None, cache

    def column(value, dtype):
        return tf.fill([rows], tf.constant(value, dtype))

    sampler = RequestSampler(
        limits=column(9, tf.int32),
        end_token_id=99,
        temperature=column(2.0, tf.float32),
        top_k=column(top_k, tf.int32),
        top_p=column(top_p, tf.float32),
        seed=tf.range(rows),
    )
    drawn = sampler(next_logits, tf.zeros((rows, 2), tf.int32), index=1)[:, 1]
    shares = np.bincount(drawn, minlength=4) / rows
    order = np.argsort(-probabilities)[:kept]
    expected = np.zeros(4)
    expected[order] = probabilities[order] / probabilities[order].sum()
    np.testing.assert_allclose(shares, expected, atol=4 * 0.5 / rows**0.5)
    assert np.count_nonzero(shares) == kept


# === Choosing ===


def test_some_signatures_and_a_signature_that_there_is_not(tmp_path):
    model = classifier()
    version = serving.export(model, tmp_path, signatures=["tokenize"])
    assert set(tf.saved_model.load(version).signatures) == {"serving_default", "tokenize"}
    with pytest.raises(ValueError, match=r"no signature 'generate'\. This model has serving"):
        serving.export(model, tmp_path, signatures=["generate"])
    assert [child.name for child in tmp_path.iterdir()] == ["1"]


def test_inputs_and_outputs_are_named_and_typed_with_any_batch_and_length():
    functions = signatures(classifier())
    (specs, _), outputs = (
        functions["tokens"].get_concrete_function().structured_input_signature,
        functions["tokens"].get_concrete_function().structured_outputs,
    )
    assert [(spec.name, spec.dtype.name, spec.shape.as_list()) for spec in specs] == [
        ("token_ids", "int32", [None, None]),
        ("padding_mask", "bool", [None, None]),
        ("segment_ids", "int32", [None, None]),
    ]
    assert {name: tensor.dtype.name for name, tensor in outputs.items()} == {
        "label": "string",
        "probabilities": "float32",
    }


def test_sampler_is_what_keras_hub_takes():
    assert issubclass(RequestSampler, keras_hub.samplers.Sampler)
