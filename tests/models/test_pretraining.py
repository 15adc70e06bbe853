"""BERT's two objectives on real sentence pairs: replicas, hosts of them, losses, saving."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_llm import corpora, objectives, training
from keras_llm.models import BertBackbone, BertForPretraining
from keras_llm.tokenizers import WordPieceTokenizer

BATCHES = 4


@pytest.fixture(scope="module")
def tokenizer():
    texts = [text[:20_000] for text in corpora.load("state_of_the_union").test.texts()]
    return WordPieceTokenizer.train(texts, 400)


@pytest.fixture(scope="module")
def data(tokenizer):
    """Batches of pairs of speeches; the masked tokens of an example differ in number."""
    speeches = [
        corpora.Document(document.text[:6000], id=document.id)
        for document in corpora.load("state_of_the_union").test
    ]
    batches = objectives.bert_examples(speeches, tokenizer, 16, sequence_length=48)
    # Keras must know where the data end, or it takes a step too many (see bert_examples).
    return batches.take(BATCHES).cache().apply(tf.data.experimental.assert_cardinality(BATCHES))


def pretrained(data, strategy, clip):
    keras.utils.set_random_seed(0)
    with strategy.scope():
        sizes = {"num_layers": 2, "num_heads": 2, "hidden_dim": 32, "intermediate_dim": 64}
        backbone = BertBackbone(400, max_sequence_length=48, dropout=0.0, **sizes)
        model = BertForPretraining(backbone)
        schedule = training.WarmupLinearDecay(0.005, total_steps=6 * BATCHES)
        model.compile(training.AdamW(schedule, weight_decay=0.1, global_clipnorm=clip))
    history = model.fit(data, epochs=3, verbose=0, shuffle=False)
    return model, history.history


@pytest.mark.parametrize("clip", [None, 0.1], ids=["free", "clipped"])
def test_one_and_two_replicas_end_at_the_same_weights(data, clip):
    one, one_history = pretrained(data, tf.distribute.get_strategy(), clip)
    two, two_history = pretrained(data, training.strategy(), clip)
    for a, b in zip(one.get_weights(), two.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    np.testing.assert_allclose(one_history["loss"], two_history["loss"], rtol=1e-4)


def test_loss_falls_and_equals_the_mean_over_real_targets(data):
    model, history = pretrained(data, tf.distribute.get_strategy(), clip=1.0)
    assert history["loss"][-1] < history["loss"][0]
    x, y, weights = next(iter(data))
    measured = model.evaluate(data.take(1), verbose=0, return_dict=True)
    for head in ("masked_lm", "next_sentence"):
        logits, real = model(x)[head].numpy(), weights[head].numpy() > 0
        logits, labels = logits[real], y[head].numpy()[real]
        probabilities = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
        expected = -np.log(probabilities[np.arange(len(labels)), labels]).mean()
        assert measured[f"{head}_loss"] == pytest.approx(expected, rel=1e-4)
        accuracy = (logits.argmax(axis=-1) == labels).mean()
        assert measured[f"{head}_accuracy"] == pytest.approx(accuracy, abs=1e-6)


def test_a_keras_file_goes_on_where_it_was_saved(data, tmp_path):
    model, _ = pretrained(data, tf.distribute.get_strategy(), clip=1.0)
    model.save(tmp_path / "bert.keras")
    loaded = keras.models.load_model(tmp_path / "bert.keras")
    assert int(loaded.optimizer.iterations) == 3 * BATCHES
    for m in (model, loaded):
        m.fit(data, verbose=0, shuffle=False)
    for a, b in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
