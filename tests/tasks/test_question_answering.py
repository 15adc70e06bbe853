import re
import string
from collections import Counter

import keras
import keras_hub
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_llm import serving, training
from keras_llm.corpora import Answer, Question
from keras_llm.models import BertBackbone, RobertaBackbone
from keras_llm.tasks import QuestionAnswerer, QuestionAnswererPreprocessor, squad_scores
from keras_llm.tasks.question_answering import as_questions
from keras_llm.tokenizers import BytePairTokenizer, UnigramTokenizer, WordPieceTokenizer

NAMES = ["Ada", "Zoë", "李白", "Émile", "🙂"]
DEEDS = ["came", "left", "sang"]


def questions():
    """Who did it, and what was done; or nobody did."""
    made = []
    for i, name in enumerate(NAMES * 3):
        deed = DEEDS[i % len(DEEDS)]
        context = f"There,  {name} {deed}."
        for asked, text in (("Who?", name), ("What?", deed)):
            answers = (Answer(text, context.index(text)),)
            made.append(Question(asked, context, answers, id=f"{i} {asked}"))
        made.append(Question("Who?", f"There,  it {deed}.", (), id=f"{i} nobody"))
    return made


QUESTIONS = questions()
TEXTS = [question.question + " " + question.context for question in QUESTIONS]
TOKENIZER = WordPieceTokenizer.train(TEXTS, 80)
SIZES = {"num_layers": 1, "num_heads": 2, "hidden_dim": 64, "intermediate_dim": 64}
SIZE = TOKENIZER.vocabulary_size()


def backbone(cls=BertBackbone, **overrides):
    sizes = SIZES | {"vocabulary_size": SIZE, "max_sequence_length": 40, "dropout": 0.0}
    return cls(**(sizes | overrides))


def answerer(strategy=None, encoder=None, tokenizer=TOKENIZER, **kwargs):
    keras.utils.set_random_seed(0)
    with (strategy or tf.distribute.get_strategy()).scope():
        model = QuestionAnswerer(encoder or backbone(), tokenizer, **kwargs)
        model.compile(training.AdamW(0.003))
    return model


@pytest.fixture(scope="module")
def trained():
    model = answerer()
    model.fit(QUESTIONS, batch_size=15, epochs=40, verbose=0)
    return model


# === Windows ===


def windows_by_loops(question, context, sequence_length, stride):
    """The recipe of BERT's `run_squad.py`, with lists."""
    room = sequence_length - 3 - len(question)
    start, found = 0, []
    while True:
        found.append(range(start, min(start + room, len(context))))
        if start + room >= len(context):
            return found
        start += min(stride, room)


@settings(max_examples=30)
@given(
    lengths=st.lists(st.tuples(st.integers(1, 5), st.integers(0, 40)), min_size=1, max_size=4),
    sequence_length=st.integers(14, 24),
    stride=st.integers(1, 12),
)
def test_windows_are_those_of_loops(lengths, sequence_length, stride):
    preprocess = QuestionAnswererPreprocessor(TOKENIZER, sequence_length, stride)
    asked = ["? " * n for n, _ in lengths]
    contexts = [" ".join(["ada", "came", "."][i % 3] for i in range(n)) for _, n in lengths]
    found = preprocess.windows(tf.constant(asked), tf.constant(contexts))
    rows, number = [], []
    for i, (question, context) in enumerate(zip(asked, contexts, strict=True)):
        ids, words = TOKENIZER.encode(question), TOKENIZER.encode(context)
        for window in windows_by_loops(ids, words, sequence_length, stride):
            rows.append([2, *ids, 3, *(words[j] for j in window), 3])
            number.append(i)
    assert found.token_ids.to_list() == rows
    assert found.question.numpy().tolist() == number
    # Each word is central in one window, and stands where it stands in the text.
    central = Counter()
    for row, i in enumerate(number):
        here = found.central[row].numpy()
        places = zip(found.starts[row].numpy()[here], found.ends[row].numpy()[here], strict=True)
        central.update((i, *place) for place in places)
    words = re.compile(r"\S+")
    assert central == Counter(
        (i, word.start(), word.end())
        for i, text in enumerate(contexts)
        for word in words.finditer(text)
    )


def test_a_token_is_central_where_its_poorer_side_is_longest():
    preprocess = QuestionAnswererPreprocessor(TOKENIZER, sequence_length=13, stride=3)
    context = tf.constant(["came " * 12])
    found = preprocess.windows(tf.constant(["?"]), context)  # windows of 9: 0 to 8, 3 to 11
    assert [row[3:-1] for row in found.central.to_list()] == [
        [True] * 6 + [False] * 3,
        [False] * 3 + [True] * 6,
    ]


def test_segments_and_the_separators_of_roberta():
    x = QuestionAnswererPreprocessor(TOKENIZER)({"question": ["who?"], "context": ["ada came"]})
    assert x["token_ids"].shape == (1, 7)
    assert x["segment_ids"].numpy().tolist() == [[0, 0, 0, 0, 1, 1, 1]]
    tokenizer = BytePairTokenizer.train(TEXTS, 300, BytePairTokenizer.ROBERTA)
    preprocess = QuestionAnswererPreprocessor(tokenizer, segments=False)
    x = preprocess({"question": ["Who?"], "context": ["Ada came."]})
    ids = tokenizer.encode_batch(["Who?", "Ada came."])
    start, end = tokenizer.start_token_id, tokenizer.end_token_id
    assert x["token_ids"].numpy().tolist() == [[start, *ids[0], end, end, *ids[1], end]]
    assert "segment_ids" not in x


# === Learning ===


def test_learns_answers_and_that_there_is_none():
    model = answerer()
    history = model.fit(QUESTIONS, batch_size=15, epochs=40, validation_data=QUESTIONS, verbose=0)
    assert history.history["val_accuracy"][-1] > 0.95
    scores = model.evaluate(QUESTIONS, verbose=0)
    assert scores["has_answer_exact_match"] == scores["no_answer_exact_match"] == 100.0
    found = model.predict(["WHO?"], ["There,  Zoe\u0308 left."], verbose=0)
    assert found["answer"].tolist() == ["Zoe\u0308"]
    assert (found["start"][0], found["end"][0]) == (8, 12)


def test_one_and_two_replicas_train_alike_also_on_a_ragged_last_batch():
    weights = []
    for strategy in (tf.distribute.get_strategy(), training.strategy()):
        model = answerer(strategy)
        model.fit(QUESTIONS[:13], batch_size=8, epochs=3, verbose=0)
        weights.append(model.get_weights())
    for one, two in zip(*weights, strict=True):
        np.testing.assert_allclose(one, two, atol=2e-5)


def test_strings_train_as_questions_do():
    model, other = answerer(), answerer()
    model.fit(QUESTIONS, batch_size=16, verbose=0)
    other.fit(
        [q.question for q in QUESTIONS],
        [q.context for q in QUESTIONS],
        [q.answers[0] if q.answers else None for q in QUESTIONS],
        batch_size=16,
        verbose=0,
    )
    for a, b in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_targets_are_the_tokens_of_the_answer_or_cls():
    model = answerer(sequence_length=13, stride=3)
    context = "came " * 8 + "Ada Zoë. " + "left " * 8
    rows, targets = model._examples(as_questions(["?"], [context], ["Ada Zoë"]))
    for row, (start, end) in zip(rows.to_list(), targets.numpy(), strict=True):
        answer = TOKENIZER.encode("Ada Zoë")
        places = [i for i in range(len(row)) if row[i : i + len(answer)] == answer]
        expected = (places[0], places[0] + len(answer) - 1) if places else (0, 0)
        assert (start, end) == expected
    assert 0 < np.count_nonzero(targets[:, 0]) < len(targets)
    # An answer that begins within a token is taught as the whole token.
    _, targets = model._examples(as_questions(["?"], ["came left"], ["eft"]))
    assert targets.numpy().tolist() == [[4, 4]]


# === Spans ===


def spans_by_loops(model, question, context):
    """The scores of all spans: the greatest over the windows that show most around their start."""
    windows = model.preprocessor.windows(tf.constant([question]), tf.constant([context]))
    scores, nothing = {}, []
    for row in range(len(windows.question)):
        ids = windows.token_ids[row : row + 1]
        start, end = model(model.preprocessor.pack(ids)).numpy()[0]
        nothing.append(start[0] + end[0])
        starts, ends = windows.starts[row].numpy(), windows.ends[row].numpy()
        central = windows.central[row].numpy()
        for i in np.flatnonzero(central):
            for j in range(i, min(i + model.max_answer_length, len(ends) - 1)):
                scores[starts[i], ends[j]] = start[i] + end[j]
    null = min(nothing)
    return sorted(((score - null, *span) for span, score in scores.items()), reverse=True)


def test_best_spans_of_a_long_context_are_those_of_loops():
    model = answerer(sequence_length=14, stride=4, max_answer_length=3, na_threshold=None)
    contexts = ["Ada came,  Émile 🙂 sang. 李白 left. " * 3, "Zoë"]
    for top_k in (1, 7):
        found = model.predict(["Who came?", "Who?"], contexts, top_k=top_k, verbose=0)
        assert found["answer"].shape == ((2,) if top_k == 1 else (2, 7))
        expected = spans_by_loops(model, "Who came?", contexts[0])[:top_k]
        for i, (score, start, end) in enumerate(expected):
            row = {name: np.reshape(value[0], -1) for name, value in found.items()}
            assert (row["start"][i], row["end"][i]) == (start, end)
            assert row["answer"][i] == contexts[0][start:end]
            np.testing.assert_allclose(row["score"][i], score, atol=1e-5)
        probability = 1 / (1 + np.exp(expected[0][0]))
        np.testing.assert_allclose(found["no_answer_probability"][0], probability, atol=1e-6)
    assert found["answer"][1].tolist() == ["Zoë"] + [""] * 6  # it has one span only


anything = st.text(st.characters(), max_size=30)
tricky = st.text("aZ éÅ\u0301\u200b\x00你世，。🙂👩\u200d한İﬁ \n\ufffd", max_size=30)


@pytest.fixture(scope="module", params=["wordpiece", "byte_pair"])
def any_answerer(request):
    if request.param == "wordpiece":
        return answerer(sequence_length=12, stride=3, na_threshold=None)
    tokenizer = BytePairTokenizer.train(TEXTS, 300, BytePairTokenizer.ROBERTA)
    encoder = backbone(RobertaBackbone, vocabulary_size=300)
    kwargs = {"sequence_length": 14, "stride": 3, "na_threshold": None}
    return answerer(None, encoder, tokenizer, **kwargs)


@settings(max_examples=25)
@given(contexts=st.lists(st.one_of(anything, tricky), min_size=1, max_size=3))
def test_answers_are_spans_of_the_context_to_the_letter(any_answerer, contexts):
    contexts = [f"Ada {context}" for context in contexts]
    found = any_answerer.predict(["?"] * len(contexts), contexts, verbose=0)
    for i, context in enumerate(contexts):
        answer, start, end = (found[name][i] for name in ("answer", "start", "end"))
        assert context[start:end] == answer != ""


def test_predictions_do_not_depend_on_the_batch(trained):
    asked = [q.question for q in QUESTIONS[:6]]
    contexts = [q.context + " Ada left." * n for n, q in enumerate(QUESTIONS[:6])]
    together = trained.predict(asked, contexts, verbose=0)
    for i, pair in enumerate(zip(asked, contexts, strict=True)):
        alone = trained.predict(*([text] for text in pair), verbose=0)
        assert alone["answer"][0] == together["answer"][i]
        np.testing.assert_allclose(alone["score"][0], together["score"][i], atol=1e-5)


def test_a_context_that_no_token_is_left_of_has_no_answer(trained):
    found = trained.predict(["Who?"], ["\u200b"], verbose=0)
    assert found["answer"].tolist() == [""]
    assert found["no_answer_probability"][0] == 1.0


# === No answer ===


def test_threshold_gives_the_greatest_f1_of_all():
    model = answerer()
    model.fit(QUESTIONS, batch_size=15, epochs=8, verbose=0)  # not sure of everything
    tuned = model.tune_na_threshold(QUESTIONS, verbose=0)
    assert tuned == model.na_threshold
    best = model.evaluate(QUESTIONS, verbose=0)["f1"]
    model.na_threshold = None
    scores = model.predict(QUESTIONS, verbose=0)["score"]
    others = []
    for threshold in [*np.sort(scores)[::5] - 1e-4, scores.max() + 1]:
        model.na_threshold = float(threshold)
        others.append(model.evaluate(QUESTIONS, verbose=0)["f1"])
    assert best >= max(others) > min(others)


def test_threshold_where_all_or_none_have_answers():
    model = answerer()
    for some in (True, False):
        questions = [question for question in QUESTIONS if bool(question.answers) == some]
        model.tune_na_threshold(questions, verbose=0)
        found = model.predict(questions, verbose=0)["answer"]
        assert any(found) if some else not any(found)


# === Scores ===


def official(prediction, golds):
    """`evaluate-v2.0.py` from its description: (exact, f1) against the nearest gold answer."""

    def normal(s):
        s = "".join(ch for ch in s.lower() if ch not in set(string.punctuation))
        return " ".join(re.sub(r"\b(a|an|the)\b", " ", s).split())

    golds = [gold for gold in golds if normal(gold)] or [""]
    pairs = []
    for gold in golds:
        a, b = normal(gold).split(), normal(prediction).split()
        exact = int(normal(gold) == normal(prediction))
        same = sum((Counter(a) & Counter(b)).values())
        if not a or not b:
            pairs.append((exact, int(a == b)))
        elif same == 0:
            pairs.append((exact, 0))
        else:
            precision, recall = same / len(b), same / len(a)
            pairs.append((exact, 2 * precision * recall / (precision + recall)))
    return max(e for e, _ in pairs), max(f for _, f in pairs)


phrases = st.lists(
    st.sampled_from(
        ["the", "a", "An", "theory", "U.S.", "(U.S)", ",", "$5.1", "51", "York's", "é"]
    ),
    max_size=6,
).map(" ".join)


@given(predictions=st.lists(st.tuples(phrases, st.lists(phrases, max_size=3)), min_size=1))
def test_scores_are_those_of_the_official_script(predictions):
    asked, answers = [], []
    for answer, golds in predictions:
        context = " | ".join(golds) + "|"
        spans = [Answer(gold, context.index(gold)) for gold in golds if gold]
        asked.append(Question("?", context, tuple(spans)))
        answers.append(answer)
    pairs = [
        official(answer, [a.text for a in question.answers])
        for answer, question in zip(answers, asked, strict=True)
    ]
    exact, f1 = 100 * np.mean(pairs, axis=0)
    scores = squad_scores(answers, asked)
    np.testing.assert_allclose([scores["exact_match"], scores["f1"]], [exact, f1])


# === Files ===


def test_keras_file_round_trip_continues_training(tmp_path):
    model = answerer(sequence_length=20, stride=5, max_answer_length=4)
    model.fit(QUESTIONS, epochs=3, verbose=0)
    model.tune_na_threshold(QUESTIONS, verbose=0)
    model.save(tmp_path / "answerer.keras")
    loaded = keras.models.load_model(tmp_path / "answerer.keras")
    assert loaded.get_config() == model.get_config()
    expected = model.predict(QUESTIONS, top_k=2, verbose=0)
    for name, value in loaded.predict(QUESTIONS, top_k=2, verbose=0).items():
        np.testing.assert_array_equal(value, expected[name])
    for m in (model, loaded):
        m.fit(QUESTIONS, epochs=1, verbose=0)
    for a, b in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_fresh_process_gives_the_same_answers(tmp_path, trained):
    version = serving.export(trained, tmp_path / "answerer")
    asked = ["Who?", "What?", "Who?", "Who?"]
    contexts = ["There,  Zoë came.", "There,  🙂 sang.", "Ada came. " * 30, "\u200b"]
    served = serving.check(version, {"question": asked, "context": contexts})
    expected = trained.predict(asked, contexts, verbose=0)
    assert served["answer"] == expected["answer"].tolist()
    for name in ("start", "end", "score", "no_answer_probability"):
        np.testing.assert_allclose(served[name], expected[name], rtol=1e-5, atol=1e-4)


def test_a_request_of_no_questions(tmp_path, trained):
    served = tf.saved_model.load(serving.export(trained, tmp_path / "answerer"))
    nothing = tf.constant([], tf.string)
    answers = served.signatures["serving_default"](question=nothing, context=nothing)
    assert {name: value.shape for name, value in answers.items()}["answer"] == (0,)


# === Backbones ===


def test_bfloat16_model_has_float32_scores():
    model = answerer(None, backbone(dtype="mixed_bfloat16"))
    model.fit(QUESTIONS[:6], epochs=1, verbose=0)
    assert model.output.dtype == "float32"
    assert model.predict(QUESTIONS[:3], verbose=0)["score"].dtype == "float32"


def test_keras_hub_backbone():
    hub = keras_hub.models.BertBackbone(vocabulary_size=SIZE, max_sequence_length=40, **SIZES)
    model = answerer(None, hub)
    model.fit(QUESTIONS, batch_size=15, epochs=40, verbose=0)
    assert model.evaluate(QUESTIONS, verbose=0)["exact_match"] > 90


@pytest.mark.parametrize("cls", [RobertaBackbone, keras_hub.models.RobertaBackbone])
def test_backbone_without_segments(tmp_path, cls):
    tokenizer = BytePairTokenizer.train(TEXTS, 300, BytePairTokenizer.ROBERTA)
    encoder = backbone(cls, vocabulary_size=300, max_sequence_length=60)
    model = answerer(None, encoder, tokenizer)
    model.fit(QUESTIONS, batch_size=15, epochs=40, verbose=0)
    assert model.evaluate(QUESTIONS, verbose=0)["exact_match"] > 90
    model.save(tmp_path / "answerer.keras")
    loaded = keras.models.load_model(tmp_path / "answerer.keras")
    expected = model.predict(QUESTIONS, verbose=0)["answer"].tolist()
    assert loaded.predict(QUESTIONS, verbose=0)["answer"].tolist() == expected


# === What is refused ===


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("Who?", ["Ada."], ["Ada"]), TypeError, "put it in a list"),
        (([], [], []), ValueError, "list of questions is empty"),
        (([],), ValueError, "list of questions is empty"),
        ((["Who?"],), TypeError, r"questions\[0\] is 'Who\?'. Pass strings with their contexts"),
        ((["Who?"], ["Ada."]), ValueError, "Answers are missing.*fit"),
        ((["Who?"], ["Ada."], ["Ada"] * 2), ValueError, "1 questions, 1 contexts, 2 answers"),
        ((["Who?"] * 2, ["Ada."] * 2, ["Ada", "Max"]), ValueError, "'1': the answer 'Max' is not"),
        ((["Who?"], ["Ada."], [""]), ValueError, "'0': the answer '' is not in the context"),
        ((["Who?"], ["Ada."], [("Ada", 1)]), ValueError, "'0'.*stands 'da.'"),
        ((["Who?", " "], ["Ada."] * 2, [None] * 2), ValueError, "'1': the question is empty"),
        ((["Who?"], ["\n"], [None]), ValueError, "'0': the context is empty"),
        ((["Who?", "a " * 19], ["Ada."] * 2, [None] * 2), ValueError, "'1' has 19 tokens.*have 18"),
        (
            (["Who?"], ["came " * 50], ["came " * 49]),
            ValueError,
            "'0': no window of seq.*holds all",
        ),
        ((["Who?"], ["Ada \u200b."], ["\u200b"]), ValueError, "'0': no window"),
    ],
)
def test_bad_input_is_named_before_training(arguments, error, message):
    model = answerer()
    before = model.get_weights()
    with pytest.raises(error, match=message):
        model.fit(*arguments, verbose=0)
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sequence_length": 41}, "40 positions"),
        ({"sequence_length": 7}, "at least 8"),
        ({"stride": 0}, "stride=0"),
        ({"max_answer_length": 0}, "max_answer_length=0"),
    ],
)
def test_parts_that_do_not_fit(arguments, message):
    with pytest.raises(ValueError, match=message):
        answerer(**arguments)


def test_tokenizers_that_do_not_say_where_tokens_stand():
    hub = keras_hub.tokenizers.WordPieceTokenizer(TOKENIZER.get_vocabulary())
    with pytest.raises(TypeError, match="does not say where its tokens stand"):
        QuestionAnswerer(backbone(), hub)
    unigram = UnigramTokenizer.train(TEXTS, 60)
    with pytest.raises(NotImplementedError, match="UnigramTokenizer does not say where"):
        unigram.tokenize_with_offsets(["Ada"])


def test_tokenizer_larger_than_the_backbone():
    with pytest.raises(ValueError, match=rf"{SIZE} tokens and the backbone only 9"):
        QuestionAnswerer(backbone(vocabulary_size=9), TOKENIZER)


def test_scores_want_an_answer_for_each_question():
    with pytest.raises(ValueError, match="1 answers, 45 questions"):
        squad_scores([""], QUESTIONS)
