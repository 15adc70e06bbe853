import keras
import numpy as np
import pytest
import tensorflow as tf
from transformers import BertTokenizer

from keras_llm import training
from keras_llm.models import BertBackbone, RobertaBackbone
from keras_llm.tasks import TextPairClassifier, TextPairClassifierPreprocessor
from keras_llm.tokenizers import BytePairTokenizer, WordPieceTokenizer

WORDS = ["good", "bad", "film", "very", "a", "the", "not", "好", "坏"]
TOKENIZER = WordPieceTokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS])
MOODS = {"good": 1, "好": 1, "bad": 0, "坏": 0}
PAIRS = [(f"a {one} film", f"{other}") for one in MOODS for other in MOODS]
PRAISE = ["yes" if MOODS[a.split()[1]] and MOODS[b] else "no" for a, b in PAIRS]  # of both


def classifier(**kwargs):
    keras.utils.set_random_seed(1)
    backbone = BertBackbone(
        TOKENIZER.vocabulary_size(), 2, 2, 32, 64, max_sequence_length=12, dropout=0.0
    )
    model = TextPairClassifier(backbone, TOKENIZER, ["no", "yes"], dropout=0.0, **kwargs)
    model.compile(training.AdamW(0.003))
    return model


@pytest.fixture(scope="module")
def trained():
    model = classifier()
    model.fit(PAIRS * 4, PRAISE * 4, batch_size=16, epochs=15, verbose=0)
    return model


def test_learns_what_neither_text_says_alone(trained):
    """A text that praises stands beside as many that do as that do not."""
    assert trained.evaluate(PAIRS, PRAISE, verbose=0)["accuracy"] == 1.0
    assert trained.predict(PAIRS, verbose=0)["label"].tolist() == PRAISE
    report = trained.report(PAIRS, PRAISE, verbose=0)
    assert report["yes"] == {"precision": 1.0, "recall": 1.0, "f1": 1.0, "support": 4}


def test_an_export_computes_what_predict_does(trained):
    text, text_pair = map(list, zip(*PAIRS, strict=True))
    serve = tf.function(trained.serve, input_signature=[tf.TensorSpec([None], tf.string)] * 2)
    served, expected = serve(text, text_pair), trained.predict(PAIRS, verbose=0)
    assert [label.decode() for label in served["label"].numpy()] == PRAISE
    np.testing.assert_allclose(served["probabilities"], expected["probabilities"], atol=1e-6)


def test_a_dataset_of_pairs_is_a_list_of_them(trained):
    batches = tf.data.Dataset.from_tensor_slices(PAIRS).batch(5)
    expected = trained.predict(PAIRS, verbose=0)["probabilities"]
    given = trained.predict(batches, verbose=0)["probabilities"]
    np.testing.assert_allclose(given, expected, atol=1e-6)


def test_saved_and_loaded_it_answers_the_same(trained, tmp_path):
    trained.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    expected = trained.predict(PAIRS, verbose=0)
    given = loaded.predict(PAIRS, verbose=0)
    np.testing.assert_allclose(given["probabilities"], expected["probabilities"], atol=1e-6)


def test_several_labels_weights_and_calibration():
    model = classifier(multi_label=True)
    labels = [("yes",), (), ("yes", "no"), ("no",)] * 4
    model.fit(PAIRS, labels, class_weight="balanced", validation_data=(PAIRS, labels), verbose=0)
    assert model.calibrate(PAIRS, labels, verbose=0)["temperature"] > 0
    assert len(model.predict(PAIRS, verbose=0)["labels"]) == len(PAIRS)


# === What the model reads ===

TEXTS = ["good", "the film", "very " * 5 + "good", "a very bad film " * 4, ""]


@pytest.mark.parametrize("length", [6, 7, 9, 12, 100])
def test_tokens_are_those_of_transformers(length, tmp_path):
    TOKENIZER.save(tmp_path)
    reference = BertTokenizer.from_pretrained(tmp_path)
    pairs = [(text, other) for text in TEXTS for other in TEXTS]
    expected = reference(
        *map(list, zip(*pairs, strict=True)),
        truncation="longest_first",
        max_length=length,
        padding=True,
    )
    x = TextPairClassifierPreprocessor(TOKENIZER, ["no", "yes"], length)(tf.constant(pairs))
    assert x["token_ids"].numpy().tolist() == expected["input_ids"]
    assert x["segment_ids"].numpy().tolist() == expected["token_type_ids"]
    assert x["padding_mask"].numpy().astype(int).tolist() == expected["attention_mask"]


@pytest.mark.parametrize("length", [6, 7, 10, 64])
def test_two_separators_stand_between_byte_pairs(length):
    """The longer text loses its last token until both fit; of two as long what was shorter."""
    tokenizer = BytePairTokenizer.train(["a good film, a very bad film"] * 4, 280)
    preprocess = TextPairClassifierPreprocessor(tokenizer, ["no", "yes"], length, segments=False)
    start, end = tokenizer.start_token_id, tokenizer.end_token_id
    for pair in [(text, other) for text in TEXTS for other in TEXTS]:
        first, second = (tokenizer.encode(text) for text in pair)
        shorter, longer = sorted([first, second], key=len)
        while len(first) + len(second) + 4 > length:
            (longer if len(longer) > len(shorter) else shorter).pop()
        x = preprocess(tf.constant([pair]))
        assert set(x) == {"token_ids", "padding_mask"}
        assert x["token_ids"].numpy().tolist() == [[start, *first, end, end, *second, end]]


def test_a_model_without_segments_reads_pairs():
    tokenizer = BytePairTokenizer.train(["a good film"] * 4, 270)
    backbone = RobertaBackbone(270, 1, 2, 16, 32, max_sequence_length=16)
    model = TextPairClassifier(backbone, tokenizer, ["no", "yes"])
    start, end = tokenizer.start_token_id, tokenizer.end_token_id
    row = [start, *tokenizer.encode("a film"), end, end, *tokenizer.encode("good"), end]
    expected = model.serve_tokens(
        {"token_ids": np.array([row]), "padding_mask": np.ones((1, len(row)), bool)}
    )
    given = model.predict([("a film", "good")], verbose=0)
    np.testing.assert_allclose(given["probabilities"], expected["probabilities"], atol=1e-6)


# === Errors ===


@pytest.mark.parametrize(
    ("pairs", "error", "message"),
    [
        ("good", TypeError, "list of pairs of texts, got the string 'good'"),
        (["good", "bad"], TypeError, r"texts\[0\] is 'good', not a pair"),
        ([("good", "bad"), ("good",)], TypeError, r"texts\[1\] is \('good',\), not a pair"),
        ([("good", "bad", "a")], TypeError, "not a pair of texts"),
        ([("good", None)], TypeError, r"texts\[0\]\[1\] is None, not a string"),
        ([3], TypeError, r"texts\[0\] is 3, not a pair"),
        ([], ValueError, "list of pairs of texts is empty"),
    ],
)
def test_what_is_no_list_of_pairs(pairs, error, message):
    model = classifier()
    for call in (lambda: model.predict(pairs), lambda: model.fit(pairs, ["yes"])):
        with pytest.raises(error, match=message):
            call()


def test_as_many_labels_as_pairs():
    with pytest.raises(ValueError, match="got 16 texts, 2 labels"):
        classifier().fit(PAIRS, ["yes", "no"])


def test_a_length_without_room_for_two_texts():
    with pytest.raises(ValueError, match="sequence_length=5 must be at least 6 for two texts"):
        classifier(sequence_length=5)
