from pathlib import Path

import battery
import keras
import keras_hub
import numpy as np
import pytest
import tensorflow as tf

from keras_llm import serving
from keras_llm.checkpoints import load_hugging_face
from keras_llm.models import BertBackbone, RobertaBackbone
from keras_llm.tasks import TextEmbedder
from keras_llm.tokenizers import BytePairTokenizer, WordPieceTokenizer

WORDS = ["good", "bad", "film", "very", "a", "the", "好", "坏"]
TOKENIZER = WordPieceTokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS])
TEXTS = ["a good film", "", "the very bad film", "好", "film " * 40, "坏 🙂 good\n"]
SIZES = {
    "vocabulary_size": 13,
    "num_layers": 1,
    "num_heads": 2,
    "hidden_dim": 16,
    "intermediate_dim": 32,
    "max_sequence_length": 12,
}
BYTES = BytePairTokenizer.train(
    ["a good film", "the very bad film"] * 3, 268, special_tokens=BytePairTokenizer.ROBERTA
)


def embedder(**kwargs):
    keras.utils.set_random_seed(0)
    return TextEmbedder(BertBackbone(**SIZES), TOKENIZER, **kwargs)


def encoded(model, text):
    """The backbone's vectors of one text's tokens, with the first and the last."""
    ids = [2, *TOKENIZER.encode(text)[: model.sequence_length - 2], 3]
    x = {
        "token_ids": np.array([ids]),
        "segment_ids": np.zeros((1, len(ids)), int),
        "padding_mask": np.ones((1, len(ids)), bool),
    }
    return battery.numpy(model.backbone(x)["sequence_output"])[0]


def test_equals_sentence_transformers():
    golden = np.load(Path(__file__).parent / "minilm.npz")
    texts, expected = golden["texts"].tolist(), golden["vectors"].astype("float32")
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    model = TextEmbedder(*load_hugging_face("sentence-transformers/all-MiniLM-L6-v2"))
    vectors = model.predict(texts)
    assert vectors.shape == (100, 384) and vectors.dtype == "float32"
    cosines = (vectors * expected).sum(axis=1)
    assert cosines.min() >= 0.99999
    assert np.abs(vectors - expected).max() < 1e-3

    cat, kitten, bank = model.predict(["A cat sleeps.", "A kitten naps.", "The bank is closed."])
    assert cat @ kitten > 0.6 > 0.2 > cat @ bank


def test_mean_of_the_real_tokens_of_length_one():
    model = embedder()
    for text, vector in zip(TEXTS, model.predict(TEXTS, batch_size=4), strict=True):
        mean = encoded(model, text).mean(axis=0)
        np.testing.assert_allclose(vector, mean / np.linalg.norm(mean), atol=1e-5)


def test_first_token_as_it_is():
    model = embedder(pooling="cls", normalize=False)
    for text, vector in zip(TEXTS, model.predict(TEXTS), strict=True):
        np.testing.assert_allclose(vector, encoded(model, text)[0], atol=1e-5)


def test_texts_of_like_length_share_a_batch_and_keep_their_places(monkeypatch):
    model, shapes = embedder(), []
    texts = ["film " * n for n in (1, 9, 2, 8, 3, 7, 1, 9)]
    expected = np.concatenate([model.predict([text]) for text in texts])
    preprocess = model.preprocessor._inputs

    def record(strings):
        inputs = preprocess(strings)
        tf.py_function(lambda ids: shapes.append(tuple(ids.shape)), [inputs["token_ids"]], [])
        return inputs

    monkeypatch.setattr(model.preprocessor, "_inputs", record)
    vectors = model.predict(texts, batch_size=2)
    np.testing.assert_allclose(vectors, expected, atol=1e-6)
    assert sorted(shapes) == [(2, 3), (2, 5), (2, 10), (2, 11)]


def test_datasets_stay_in_their_order():
    model = embedder()
    vectors = model.predict(tf.data.Dataset.from_tensor_slices(TEXTS).batch(4))
    np.testing.assert_allclose(vectors, model.predict(TEXTS), atol=1e-6)


def test_similarity_is_the_cosine():
    model = embedder(normalize=False)
    vectors = model.predict(TEXTS)
    similarity = model.similarity(TEXTS, TEXTS[:2])
    assert similarity.shape == (6, 2)
    norms = np.linalg.norm(vectors, axis=1)
    expected = vectors @ vectors.T / norms / norms[:, None]
    np.testing.assert_allclose(model.similarity(TEXTS), expected, atol=1e-5)
    np.testing.assert_allclose(similarity, expected[:, :2], atol=1e-5)


def test_saved_and_loaded(tmp_path):
    model = embedder(pooling="cls", sequence_length=7, normalize=False)
    model.save(tmp_path / "embedder.keras")
    loaded = keras.models.load_model(tmp_path / "embedder.keras")
    assert type(loaded) is TextEmbedder
    own = {"pooling": "cls", "sequence_length": 7, "normalize": False}
    assert loaded.get_config().items() >= own.items()
    np.testing.assert_array_equal(loaded.predict(TEXTS), model.predict(TEXTS))


def test_half_precision_gives_float32_of_length_one():
    backbone = BertBackbone(**SIZES, dtype="mixed_bfloat16")
    vectors = TextEmbedder(backbone, TOKENIZER).predict(TEXTS)
    assert vectors.dtype == "float32"
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-6)


def test_a_server_gives_the_same_vectors(tmp_path):
    model = embedder()
    served = serving.check(serving.export(model, tmp_path / "embedder"), TEXTS)
    np.testing.assert_allclose(served["embedding"], model.predict(TEXTS), atol=1e-6)


HUB = {**SIZES, "vocabulary_size": BYTES.vocabulary_size()}


@pytest.mark.parametrize(
    ("backbone", "tokenizer"),
    [
        (keras_hub.models.BertBackbone(**SIZES), TOKENIZER),
        (
            keras_hub.models.BertBackbone(**SIZES),
            keras_hub.models.BertTokenizer(TOKENIZER.get_vocabulary(), lowercase=True),
        ),
        (keras_hub.models.DistilBertBackbone(**SIZES), TOKENIZER),
        (keras_hub.models.RobertaBackbone(**HUB), BYTES),
        (RobertaBackbone(**HUB), BYTES),
    ],
    ids=["BERT", "BERT's tokenizer", "DistilBERT", "RoBERTa", "ours"],
)
def test_backbones_and_tokenizers_of_keras_hub(tmp_path, backbone, tokenizer):
    model = TextEmbedder(backbone, tokenizer)
    vectors = model.predict(TEXTS)
    alone = np.concatenate([model.predict([text]) for text in TEXTS])
    np.testing.assert_allclose(vectors, alone, atol=1e-5)
    model.save(tmp_path / "embedder.keras")
    loaded = keras.models.load_model(tmp_path / "embedder.keras")
    np.testing.assert_allclose(loaded.predict(TEXTS), vectors, atol=1e-6)


def test_byte_pairs_of_keras_hub():
    vocabulary = {token: id for id, token in enumerate(BYTES.vocabulary)}
    theirs = keras_hub.models.RobertaTokenizer(vocabulary, merges=list(BYTES.merges))
    backbone = keras_hub.models.RobertaBackbone(**HUB)
    expected = TextEmbedder(backbone, BYTES).predict(TEXTS[:2])
    vectors = TextEmbedder(backbone, theirs).predict(TEXTS[:2])
    np.testing.assert_allclose(vectors, expected, atol=1e-6)


def test_lone_surrogates_are_left_out():
    vectors = embedder().predict(["a \ud800 film", "a film"])
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-6)


def test_what_does_not_fit():
    with pytest.raises(ValueError, match=r"pooling must be .*, not 'max'"):
        embedder(pooling="max")
    with pytest.raises(ValueError, match="sequence_length=13 must be at least 3 and at most"):
        embedder(sequence_length=13)
    with pytest.raises(ValueError, match="The tokenizer has 13 tokens and the backbone only 12"):
        TextEmbedder(BertBackbone(**{**SIZES, "vocabulary_size": 12}), TOKENIZER)
    with pytest.raises(TypeError, match="put it in a list"):
        embedder().predict("a good film")
