import itertools
import unicodedata

import keras
import keras_hub
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from seqeval import scheme as schemes
from seqeval.scheme import Tokens

from keras_llm import serving, training
from keras_llm.layers import CRF
from keras_llm.models import BertBackbone
from keras_llm.tasks import (
    Entity,
    TokenClassifier,
    TokenClassifierPreprocessor,
    entity_scores,
)
from keras_llm.tasks.token_classification import (
    Chain,
    CRFCrossentropy,
    characters_between,
    read_sentences,
    split_words,
)
from keras_llm.tokenizers import BytePairTokenizer, WordPieceTokenizer

WORDS = ["ada", "love", "##lace", "met", "in", "new", "york", "rome", ",", "江", "在", "北", "京"]
TOKENIZER = WordPieceTokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS])
SENTENCES = [
    ["Ada", "Lovelace", "met", "Ada", "in", "New", "York"],
    ["in", "Rome", ",", "Ada"],
    list("江在北京"),
    ["met"],
] * 6
TAGS = [
    ["B-person", "I-person", "O", "B-person", "O", "B-place", "I-place"],
    ["O", "B-place", "O", "B-person"],
    ["B-person", "O", "B-place", "I-place"],
    ["O"],
] * 6


def backbone(cls=BertBackbone, **overrides):
    sizes = {"num_layers": 1, "num_heads": 2, "hidden_dim": 16, "intermediate_dim": 32}
    sizes |= {"vocabulary_size": 18, "max_sequence_length": 12, "dropout": 0.0}
    return cls(**(sizes | overrides))


def tagger(strategy=None, **kwargs):
    keras.utils.set_random_seed(0)
    with (strategy or tf.distribute.get_strategy()).scope():
        kwargs = {"labels": ["person", "place"], "dropout": 0.0} | kwargs
        model = TokenClassifier(kwargs.pop("backbone", None) or backbone(), TOKENIZER, **kwargs)
        model.compile(training.AdamW(0.01))
    return model


@pytest.fixture(scope="module")
def trained():
    model = tagger()
    model.fit(
        SENTENCES, TAGS, batch_size=8, epochs=20, validation_data=(SENTENCES, TAGS), verbose=0
    )
    return model


def test_learns_and_finds_names(trained):
    logs = trained.evaluate(SENTENCES, TAGS, verbose=0)
    assert logs.pop("loss") < 0.1
    assert logs == {"accuracy": 1.0, "precision": 1.0, "recall": 1.0, "f1": 1.0}
    predicted = trained.predict(["Ada Lovelace  met Ada, in New York", "江在北京", ["in", "Rome"]])
    assert predicted["words"][1:] == [list("江在北京"), ["in", "Rome"]]
    assert predicted["tags"][1] == TAGS[2]
    assert predicted["entities"] == [
        [
            Entity("Ada Lovelace", "person", 0, 12),
            Entity("Ada", "person", 18, 21),
            Entity("New York", "place", 26, 34),
        ],
        [Entity("江", "person", 0, 1), Entity("北京", "place", 2, 4)],
        [Entity("Rome", "place", 3, 7)],
    ]


def test_one_and_two_replicas_train_alike_also_on_a_ragged_last_batch():
    weights = []
    for strategy in (tf.distribute.get_strategy(), training.strategy()):
        model = tagger(strategy)
        model.fit(SENTENCES[:21], TAGS[:21], batch_size=8, epochs=2, verbose=0)
        weights.append(model.get_weights())
    for one, two in zip(*weights, strict=True):
        np.testing.assert_allclose(one, two, atol=2e-5)


def test_keras_file_round_trip_goes_on_also_on_a_dataset(tmp_path):
    model = tagger()
    model.fit(SENTENCES, TAGS, batch_size=24, epochs=2, verbose=0)
    model.save(tmp_path / "tagger.keras")
    loaded = keras.models.load_model(tmp_path / "tagger.keras")
    assert loaded.get_config()["labels"] == ["person", "place"]
    assert loaded.predict(SENTENCES) == model.predict(SENTENCES)
    model.fit(SENTENCES, TAGS, batch_size=24, epochs=2, verbose=0)  # one batch: order is nothing
    pairs = (tf.ragged.constant(SENTENCES), tf.ragged.constant(TAGS))
    pairs = tf.data.Dataset.from_tensor_slices(pairs).batch(24)
    loaded.fit(pairs, epochs=2, verbose=0)
    for a, b in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    logs = model.evaluate(SENTENCES, TAGS, verbose=0)
    assert loaded.evaluate(pairs, verbose=0)["loss"] == pytest.approx(logs["loss"], rel=1e-4)


def test_sample_weights_of_zero_are_as_good_as_absence(trained):
    real = [1.0] * 10 + [0.0] * 14
    weighted = trained.evaluate(SENTENCES, TAGS, sample_weight=real, verbose=0)
    alone = trained.evaluate(SENTENCES[:10], TAGS[:10], verbose=0)
    assert weighted["loss"] == pytest.approx(alone["loss"], rel=1e-4)


@pytest.mark.parametrize("crf", [True, False])
def test_tags_do_not_depend_on_the_batch(crf):
    model = tagger(crf=crf)
    alone = [model.predict([sentence])["tags"][0] for sentence in SENTENCES[:4]]
    assert model.predict(SENTENCES, batch_size=5)["tags"] == alone * 6


@pytest.mark.parametrize("scheme", ["BIO", "BIOES"])
def test_an_untrained_crf_obeys_the_scheme(scheme):
    model = tagger(scheme=scheme)
    rng = np.random.default_rng(0)
    model.set_weights([rng.normal(size=w.shape) for w in model.get_weights()])
    sentences = [[str(w) for w in rng.choice(WORDS, n)] for n in rng.integers(1, 9, 40)]
    predicted = model.predict(sentences)
    for i, tags in enumerate(predicted["tags"]):
        model.chain.check(tags, i)
    marked = sum(tag[0] in "BS" for tags in predicted["tags"] for tag in tags)
    assert marked == sum(map(len, predicted["entities"])) > 10


def test_without_scheme_tags_are_labels():
    model = tagger(labels=["noun", "verb", "other"], scheme=None, crf=False)
    tags = [["noun" if word[0].isupper() else "other" for word in row] for row in SENTENCES]
    model.fit(SENTENCES, tags, batch_size=8, epochs=20, verbose=0)
    assert set(model.evaluate(SENTENCES, tags, verbose=0)) == {"loss", "accuracy"}
    predicted = model.predict(SENTENCES)
    assert set(predicted) == {"words", "tags"}
    assert predicted["tags"][:2] == tags[:2]
    report = model.report(SENTENCES, tags)
    assert report["noun"] == {"precision": 1.0, "recall": 1.0, "f1": 1.0, "support": 42}
    assert report["verb"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 0}


def test_report_counts_the_names_of_each_class(trained):
    """Counted by hand: the model is right, so what differs are the tags that it is given."""
    wrong = [["B-place", "O", "O", "B-person", "O", "B-place", "I-place"], *TAGS[1:4]]
    report = trained.report(SENTENCES[:4], wrong)
    assert list(report) == ["person", "place"]
    # Found: 4 persons, 3 places; given: 3 and 4; the same: 3 and 3.
    assert report["person"] == pytest.approx(
        {"precision": 3 / 4, "recall": 1.0, "f1": 6 / 7, "support": 3}
    )
    assert report["place"] == pytest.approx(
        {"precision": 1.0, "recall": 3 / 4, "f1": 6 / 7, "support": 4}
    )


# === Loss ===


def test_loss_is_that_of_all_paths_per_word():
    crf = CRF(2)
    emissions = np.random.default_rng(0).normal(size=(2, 2, 2)).astype("float32")
    mask = np.array([[True, True], [True, False]])
    potentials = crf(emissions, padding_mask=mask)
    crf.set_weights([np.random.default_rng(1).normal(size=w.shape) for w in crf.get_weights()])
    transitions, starts, ends = crf.get_weights()
    potentials = crf(emissions, padding_mask=mask)

    def probability(row, *path):
        paths = [(a, b) for a in (0, 1) for b in (0, 1)] if len(path) > 1 else [(0,), (1,)]
        scores = {p: _score(p, emissions[row], transitions, starts, ends) for p in paths}
        return np.exp(scores[path]) / sum(map(np.exp, scores.values()))

    expected = -(np.log(probability(0, 1, 0)) + 0.5 * np.log(probability(1, 1))) / 2.5
    loss = CRFCrossentropy()([[1, 0], [1, 0]], potentials, [[1.0, 1.0], [0.5, 0.0]])
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def _score(path, emissions, transitions, starts, ends):
    total = starts[path[0]] + ends[path[-1]]
    total += sum(emissions[t, tag] for t, tag in enumerate(path))
    return total + sum(transitions[pair] for pair in itertools.pairwise(path))


# === Words and pieces ===


def test_words_are_judged_at_their_first_piece():
    preprocess = TokenClassifierPreprocessor(TOKENIZER, ["O", "B", "I"], sequence_length=8)
    words = tf.ragged.constant([["Lovelace", "\u200b", "in", "Rome"], ["met"], []], ragged_rank=1)
    tags = tf.ragged.constant([["B", "I", "O", "B"], ["O"], []], tf.string, ragged_rank=1)
    x, y, weights = preprocess(words, y=tags, sample_weight=tf.constant([0.5, 1.0, 1.0]))
    love, lace, met, into, rome = (
        TOKENIZER.token_to_id(token) for token in ("love", "##lace", "met", "in", "rome")
    )
    assert x["token_ids"].numpy().tolist() == [
        [2, love, lace, 1, into, rome, 3],
        [2, met, 3, 0, 0, 0, 0],
        [2, 3, 0, 0, 0, 0, 0],
    ]
    assert x["word_positions"].numpy().tolist() == [[1, 3, 4, 5], [1, 0, 0, 0], [0, 0, 0, 0]]
    assert x["word_mask"].numpy().sum(axis=1).tolist() == [4, 1, 0]
    assert y.numpy().tolist() == [[1, 2, 0, 1], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert weights.numpy().tolist() == [[0.5] * 4, [1.0, 0.0, 0.0, 0.0], [0.0] * 4]


def test_a_long_sentence_is_cut_where_it_may_end():
    words = tf.ragged.constant([["in"] * 9, ["Lovelace"] * 4])
    tags = tf.ragged.constant([["O", "B", "I", "I", "I", "I", "I", "E", "O"], ["O"] * 4])
    arguments = {"classes": list("OBIE"), "sequence_length": 8}  # 6 tokens fit
    for final, kept in ((None, [6, 3]), (["O", "E"], [1, 3])):
        preprocess = TokenClassifierPreprocessor(TOKENIZER, final_classes=final, **arguments)
        x, _, weights = preprocess(words, y=tags)
        assert x["word_mask"].numpy().sum(axis=1).tolist() == kept
        assert weights.numpy().sum(axis=1).tolist() == kept
        assert x["token_ids"].shape[1] <= 8


@settings(max_examples=30)
@given(st.lists(st.lists(st.integers(1, 9), max_size=20), min_size=1), st.integers(3, 12))
def test_windows_hold_every_word_and_fit(sizes, sequence_length):
    preprocess = TokenClassifierPreprocessor(TOKENIZER, ["O", "B"], sequence_length)
    words = [["love" + "lace" * (size - 1) for size in row] for row in sizes]
    words = tf.ragged.constant(words, tf.string, ragged_rank=1)
    pieces = preprocess.pieces(words)
    windows = preprocess.windows(pieces)
    assert windows.values.to_list() == pieces.values.to_list()
    assert preprocess.pack_words(windows)["token_ids"].shape[1] <= sequence_length
    if sequence_length > 4 and windows.shape[0] > 1:  # none is needlessly short
        assert (windows.merge_dims(1, 2).row_lengths().numpy() >= 1).all()


def test_a_text_longer_than_the_model_is_tagged_to_its_end(trained):
    sentence = ["in", "Rome", ",", "Ada", "met"] * 10  # 50 tokens, 10 at once
    predicted = trained.predict([sentence, " ".join(sentence)])
    assert predicted["tags"][0] == predicted["tags"][1]
    assert predicted["tags"][0] == ["O", "B-place", "O", "B-person", "O"] * 10
    assert trained.evaluate([sentence], [predicted["tags"][0]], verbose=0)["f1"] == 1.0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Don't  stop.", ["Don", "'", "t", "stop", "."]),
        ("在１９９８年，ＩＢＭ", list("在１９９８年，ＩＢＭ")),
        ("GDP增长3.5%", ["GDP", "增", "长", "3", ".", "5", "%"]),
        ("\u3000naïve\tcafé\u00a0\n", ["naïve", "café"]),
        ("🙂𠀀ok", ["🙂", "𠀀", "ok"]),
        ("", []),
    ],
)
def test_words_of_a_text(text, words):
    found, starts, ends = split_words(tf.constant([text]))
    assert [word.decode() for word in found[0].numpy()] == words
    assert [text[a:b] for a, b in zip(starts[0], ends[0], strict=True)] == words


@settings(max_examples=30)
@given(st.lists(st.text(), min_size=1))
def test_words_leave_out_only_space(texts):
    found, starts, ends = split_words(tf.constant([text.encode() for text in texts]))
    for text, row, first, last in zip(
        texts, found.to_list(), starts.to_list(), ends.to_list(), strict=True
    ):
        assert [text[a:b] for a, b in zip(first, last, strict=True)] == [w.decode() for w in row]
        assert all(a >= b for a, b in zip(first[1:], last, strict=False))
        left = "".join(text[a:b] for a, b in zip([0, *last], [*first, len(text)], strict=True))
        assert {unicodedata.category(character) for character in left} <= {"Cc", "Zl", "Zp", "Zs"}


def test_parts_of_a_long_text_are_no_copies_of_it():
    """20,000 copies of the text would be 10 GB."""
    texts = ["", "江在北京 🙂 " * 25_000, "naïve"]
    start = np.arange(0, len(texts[1]) - 9, 10)
    length = start % 7
    row = np.full(len(start), 1)
    row[-1], start[-1], length[-1] = 2, 1, 3
    found = characters_between(tf.constant(texts), row, start, start + length).numpy()
    expected = [texts[i][a : a + n] for i, a, n in zip(row, start, length, strict=True)]
    assert [part.decode() for part in found] == expected


# === Schemes ===


@pytest.mark.parametrize("scheme", ["BIO", "BIOES"])
@given(data=st.data())
def test_names_are_those_of_seqeval(scheme, data):
    chain = Chain(["a", "b-c"], scheme)
    tags = st.lists(st.sampled_from(chain.tags), min_size=1, max_size=9)
    rows = data.draw(st.lists(tags, min_size=1, max_size=4))
    numbers = tf.ragged.constant([[chain.tags.index(tag) for tag in row] for row in rows])
    spans = zip(*(column.to_list() for column in chain.spans(numbers)), strict=True)
    other = schemes.IOB2 if scheme == "BIO" else schemes.IOBES
    for row, (first, last, labels) in zip(rows, spans, strict=True):
        found = list(zip([label.decode() for label in labels], first, last, strict=True))
        expected = [(e.tag, e.start, e.end - 1) for e in Tokens(row, other).entities]
        assert found == expected


@pytest.mark.parametrize(
    ("scheme", "tags", "message"),
    [
        ("BIO", ["O", "I-a"], "Sentence 7 breaks the scheme at word 1: 'I-a' after 'O'"),
        ("BIO", ["I-a", "O"], "at word 0: 'I-a' at the beginning"),
        ("BIO", ["B-a", "I-b"], "at word 1: 'I-b' after 'B-a'"),
        ("BIO", ["O", "S-a"], "Sentence 7 has the tag 'S-a', which is not among"),
        ("BIOES", ["B-a", "O"], "at word 1: 'O' after 'B-a'"),
        ("BIOES", ["O", "B-a"], "at word 1: 'B-a' after 'O' at the end"),
        ("BIOES", ["S-a", "E-a"], "at word 1: 'E-a' after 'S-a'"),
        (None, ["a", "c"], "has the tag 'c'"),
    ],
)
def test_tags_that_break_a_scheme(scheme, tags, message):
    with pytest.raises(ValueError, match=message):
        Chain(["a", "b"], scheme).check(tags, 7)


def test_every_sequence_that_is_allowed_is_whole_names():
    for scheme in ("BIO", "BIOES"):
        chain = Chain(["a", "b"], scheme)
        rng = np.random.default_rng(0)
        for _ in range(200):
            row = [rng.choice(np.flatnonzero(chain.starts))]
            while len(row) < 8 or not chain.ends[row[-1]]:
                row.append(rng.choice(np.flatnonzero(chain.transitions[row[-1]])))
            tags = [chain.tags[number] for number in row]
            chain.check(tags, 0)
            names = chain.spans(tf.ragged.constant([[int(number) for number in row]]))[0]
            assert names.flat_values.shape[0] == sum(tag[0] in "BS" for tag in tags)


def test_scores_are_the_shares_of_whole_names():
    expected = [["B-a", "I-a", "O", "B-b"], ["B-a"]]
    found = [["B-a", "O", "O", "B-b"], ["B-b"]]
    assert entity_scores(expected, found) == {"precision": 1 / 3, "recall": 1 / 3, "f1": 1 / 3}
    assert entity_scores(expected, [["O"] * 4, ["O"]])["f1"] == 0.0
    assert entity_scores([["S-a", "O"]], [["S-a", "B-a"]], "BIOES")["precision"] == 1.0


# === Serving and other backbones ===


def test_a_server_tags_and_finds_the_same(trained, tmp_path):
    texts = ["Ada  Lovelace met Ada, in New York", "江在北京 " * 10, "met", ""]
    served = serving.check(serving.export(trained, tmp_path / "tagger"), texts)
    predicted = trained.predict(texts[:3])
    for i in range(3):
        count = len(predicted["words"][i])
        assert served["words"][i][:count] == predicted["words"][i]
        assert served["tags"][i][:count] == predicted["tags"][i]
        assert set(served["tags"][i][count:]) <= {""}
        columns = (served[name][i] for name in ("entities", "labels", "starts", "ends"))
        entities = [Entity(*row) for row in zip(*columns, strict=True) if row[0]]
        assert entities == predicted["entities"][i]
    assert not any(served["entities"][2])
    assert set(served["starts"][2]) == {-1}
    assert not any(served["words"][3])


def test_byte_pairs_with_roberta_of_keras_hub(tmp_path):
    keras.utils.set_random_seed(0)
    texts = [" ".join(sentence) for sentence in SENTENCES]
    tokenizer = BytePairTokenizer.train(texts, 290, special_tokens=BytePairTokenizer.ROBERTA)
    net = backbone(
        keras_hub.models.RobertaBackbone,
        vocabulary_size=tokenizer.vocabulary_size(),
        max_sequence_length=30,
    )
    model = TokenClassifier(net, tokenizer, ["person", "place"], dropout=0.0)
    first = model.preprocessor.pieces(tf.ragged.constant([["Ada", ",", "江"]])).to_list()[0]
    assert [tokenizer.decode(ids) for ids in first] == [" Ada", ",", "江"]
    model.compile(training.AdamW(0.01))
    model.fit(SENTENCES, TAGS, batch_size=8, epochs=20, verbose=0)
    assert model.evaluate(SENTENCES, TAGS, verbose=0)["f1"] == 1.0
    model.save(tmp_path / "tagger.keras")
    loaded = keras.models.load_model(tmp_path / "tagger.keras")
    assert loaded.predict(SENTENCES) == model.predict(SENTENCES)


def test_bert_of_keras_hub():
    hub = backbone(keras_hub.models.BertBackbone)
    theirs = keras_hub.models.BertTokenizer(TOKENIZER.get_vocabulary(), lowercase=True)
    keras.utils.set_random_seed(0)
    model = TokenClassifier(hub, theirs, ["person", "place"], crf=False, dropout=0.0)
    model.compile(training.AdamW(0.01))
    model.fit(SENTENCES, TAGS, batch_size=8, epochs=20, verbose=0)
    assert model.evaluate(SENTENCES, TAGS, verbose=0)["f1"] == 1.0


# === Errors ===


@pytest.mark.parametrize(
    ("sentences", "tags", "error", "message"),
    [
        ("Ada met", ["O", "O"], TypeError, "put it in a list"),
        ([], [], ValueError, "list of sentences is empty"),
        ([["met"], 3], [["O"], ["O"]], TypeError, "Sentence 1 must be a string or a list of words"),
        ([["met", ""]], [["O", "O"]], TypeError, "Sentence 0 must be .* it has ''"),
        ([["met"], []], [["O"], []], ValueError, "Sentence 1 has no words"),
        (["met", " "], [["O"], []], ValueError, "Sentence 1 has no words"),
        ([["met"]], None, ValueError, "Tags are missing"),
        ([["met"]], [["O"], ["O"]], ValueError, "1 sentences and tags for 2"),
        (
            [["met"], ["in", "Rome"]],
            [["O"], ["O"]],
            ValueError,
            "Sentence 1 has 2 words and 1 tags",
        ),
        (["江在"], ["OO"], TypeError, r"tags\[0\] is a string"),
        ([["in", "Rome"]], [["O", "B-city"]], ValueError, "Sentence 0 has the tag 'B-city'"),
        (
            [["in", "Rome"]],
            [["O", "I-place"]],
            ValueError,
            "Sentence 0 breaks the scheme at word 1",
        ),
    ],
)
def test_bad_input_is_named_before_training(sentences, tags, error, message):
    model = tagger()
    before = model.get_weights()
    with pytest.raises(error, match=message):
        model.fit(sentences, tags, verbose=0)
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"labels": []}, "list of labels is empty"),
        ({"labels": ["a", "a"]}, "must be different names"),
        ({"labels": ["a", ""]}, "must be different names"),
        ({"scheme": "IOB"}, r"scheme must be one of \['BIO', 'BIOES'\] or None, not 'IOB'"),
        ({"sequence_length": 13}, "12 positions"),
        ({"sequence_length": 2}, "at least 3"),
    ],
)
def test_parts_that_do_not_fit(arguments, message):
    with pytest.raises(ValueError, match=message):
        tagger(**arguments)


def test_a_string_and_its_words_are_the_same_sentence():
    strings = read_sentences(["New York, 北京"])
    assert strings[0].words == ["New", "York", ",", "北", "京"]
    assert read_sentences([["New", "York"]])[0].entity(0, 1, b"place").text == "New York"
