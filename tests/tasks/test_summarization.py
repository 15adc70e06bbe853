import functools

import keras
import keras_hub
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from keras_llm import corpora, serving, training
from keras_llm.checkpoints import load_hugging_face, save_hugging_face
from keras_llm.models import T5Backbone, Transformer
from keras_llm.tasks import Summarizer, first_clauses, lead_baseline, rouge_scores
from keras_llm.tokenizers import UnigramTokenizer, WordPieceTokenizer

NAMES = ["Ada", "Bob", "Cleo", "Dan", "Eve", "Finn"]
VERBS = ["sings", "swims", "paints", "writes"]


def pairs(count=64, seed=0):
    """What somebody does, among other things; the summary is who does what."""
    rng = np.random.default_rng(seed)
    rows = [(rng.choice(NAMES), rng.choice(VERBS)) for _ in range(count)]
    texts = [f"Today {name}, as we hear, {verb} in the park." for name, verb in rows]
    return texts, [f"{name} {verb}" for name, verb in rows]


TOKENIZER = UnigramTokenizer.train([text for side in pairs() for text in side], 48)


def summarizer(backbone=None, tokenizer=TOKENIZER, rate=5e-3, **settings):
    keras.utils.set_random_seed(0)
    size = tokenizer.vocabulary_size()
    backbone = backbone or T5Backbone(size, 1, 2, 32, 64, dropout=0.0)
    model = Summarizer(backbone, tokenizer, **{"sequence_length": 40, **settings})
    model.compile(training.AdamW(rate))
    return model


@pytest.fixture(scope="module")
def trained():
    model = summarizer(rate=training.WarmupLinearDecay(1e-2, 300))
    model.fit(*pairs(256), epochs=30, verbose=0)
    return model


def test_summarizes_what_it_has_not_seen(trained):
    texts, summaries = pairs(40, seed=1)
    for options in ({}, {"num_beams": 3}, {"no_repeat_ngram": 2}):
        written = trained.summarize(texts, verbose=0, **options)
        assert np.mean([w == s for w, s in zip(written, summaries, strict=True)]) > 0.8
    assert written == trained.predict(texts, no_repeat_ngram=2, verbose=0)
    figures = trained.evaluate(texts, summaries, verbose=0)
    assert figures.keys() == {"loss", "accuracy", "rouge1", "rouge2", "rougeL"}
    scores = rouge_scores(trained.summarize(texts, verbose=0), summaries)
    assert figures == figures | scores
    assert min(scores.values()) > 0.8
    assert max(rouge_scores(lead_baseline(texts, 11), summaries).values()) < 0.6


def test_early_stopping_keeps_the_best_epoch():
    model, examples = summarizer(), pairs(32)
    stopping = keras.callbacks.EarlyStopping(patience=0, restore_best_weights=True, min_delta=9.0)
    history = model.fit(
        *examples, epochs=4, validation_data=pairs(8, seed=1), callbacks=[stopping], verbose=0
    )
    assert history.history.keys() == {"loss", "accuracy", "val_loss", "val_accuracy"}
    assert len(history.history["loss"]) == 2


def test_a_saved_model_writes_as_it_was_set_to(tmp_path, trained):
    settings = {"prefix": "summarize: ", "num_beams": 2, "length_penalty": 1.0}
    model = summarizer(trained.backbone, target_length=6, no_repeat_ngram=2, **settings)
    model.save(tmp_path / "summarizer.keras")
    loaded = keras.models.load_model(tmp_path / "summarizer.keras")
    assert loaded.get_config() == model.get_config()
    texts, summaries = pairs(6, seed=2)
    assert loaded.summarize(texts) == model.summarize(texts)
    assert loaded.summarize(texts) == loaded.summarize(
        texts, num_beams=2, length_penalty=1.0, max_length=6, no_repeat_ngram=2
    )
    for m in (model, loaded):
        m.fit(texts, summaries, verbose=0)
    np.testing.assert_allclose(loaded.get_weights()[0], model.get_weights()[0], atol=1e-6)


def test_the_export_writes_as_the_model_does(tmp_path, trained):
    model = summarizer(trained.backbone, num_beams=2, no_repeat_ngram=2)
    texts, _ = pairs(5, seed=3)
    texts.append("")
    served = serving.check(serving.export(model, tmp_path / "export"), texts)
    assert served == {"summary": model.summarize(texts)}


def test_prefix_and_lengths(trained):
    model = summarizer(trained.backbone, sequence_length=12, target_length=4, prefix="Today ")
    x, y, weights = model.preprocessor(tf.constant(["Ada " * 20]), y=tf.constant(["Bob " * 20]))
    assert x["encoder_token_ids"].shape == (1, 12)
    assert x["decoder_token_ids"].shape == y.shape == weights.shape == (1, 4)
    assert TOKENIZER.decode(x["encoder_token_ids"][0]).startswith("Today Ada Ada")
    assert x["encoder_token_ids"][0, -1] == y[0, -1] == TOKENIZER.end_token_id
    assert x["decoder_token_ids"][0, 0] == TOKENIZER.pad_token_id
    whole = "Ada, as we hear, sings in the park."
    assert model.summarize([whole]) == model.summarize([whole + " Bob swims."])
    assert len(TOKENIZER.encode(model.summarize([whole])[0])) <= 4


def test_batches_count_what_is_read():
    model = summarizer(sequence_length=8, target_length=4)
    texts, summaries = pairs(60)
    texts[0] = "Today " * 500  # 8 tokens, as the others
    sizes = [len(x) for x, _ in model._batches([texts, summaries], 10, 1, seed=0)]
    assert len(sizes) == 6
    assert min(sizes) > 5


def test_a_pretrained_t5_writes_as_transformers_does(tmp_path):
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    keras.utils.set_random_seed(3)
    size = TOKENIZER.vocabulary_size() + 3  # published T5 has rows without a token, too
    backbone = T5Backbone.small(size, "1.1", num_layers=1, num_heads=2, hidden_dim=16,
                                intermediate_dim=24, key_value_dim=8)  # fmt: skip
    save_hugging_face(backbone, tmp_path / "t5", TOKENIZER)
    loaded, tokenizer = load_hugging_face(tmp_path / "t5")
    settings = {"prefix": "summarize: ", "target_length": 12, "no_repeat_ngram": 2}
    model = summarizer(loaded, tokenizer, **settings)
    model.fit(*pairs(48), epochs=2, batch_size=8, verbose=0)
    save_hugging_face(loaded, tmp_path / "tuned", tokenizer)

    theirs = transformers.T5ForConditionalGeneration.from_pretrained(tmp_path / "tuned")
    texts, _ = pairs(8, seed=1)
    for text in texts:
        ids = torch.tensor([[*tokenizer.encode("summarize: " + text), tokenizer.end_token_id]])
        written = theirs.generate(
            ids, max_new_tokens=12, num_beams=1, do_sample=False, no_repeat_ngram_size=2
        )
        ours = model._write(tf.constant([text]), 12, 1, 0.6, 2).numpy()[0]
        assert written[0, 1:].tolist() == ours[: written.shape[1] - 1].tolist()
        assert model.summarize([text]) == [tokenizer.decode(written[0])]


@pytest.mark.filterwarnings("ignore:Layer")  # its layers and masks
def test_kerashubs_t5_is_named_with_what_takes_it():
    backbone = keras_hub.models.T5Backbone(48, 1, 2, 8, 16)
    with pytest.raises(TypeError, match=r"keras_hub.*T5Backbone.*T5Seq2SeqLM"):
        Summarizer(backbone, TOKENIZER)


@pytest.mark.parametrize(
    ("texts", "summaries", "error", "message"),
    [
        (["a"], None, ValueError, r"Summaries are missing.*fit\(texts, summaries\)"),
        (["a"], ["b", "c"], ValueError, "1 texts, 2 summaries"),
        (["a"], [None], TypeError, r"summaries\[0\] is None"),
    ],
)
def test_bad_pairs_are_named_before_training(trained, texts, summaries, error, message):
    with pytest.raises(error, match=message):
        trained.fit(texts, summaries, verbose=0)


def test_bad_settings(trained):
    with pytest.raises(ValueError, match="target_length=1"):
        Summarizer(trained.backbone, TOKENIZER, target_length=1)
    with pytest.raises(ValueError, match="n=1 must"):
        trained.summarize(["a"], no_repeat_ngram=1)


# === ROUGE ===

LATIN = st.text("ab 1", max_size=12)


@given(LATIN, LATIN)
def test_rouge_of_latin_letters_is_the_librarys(prediction, reference):
    expected = RougeScorer(["rouge1", "rouge2", "rougeL"]).score(reference, prediction)
    actual = rouge_scores([prediction], [reference])
    assert actual == pytest.approx({name: score.fmeasure for name, score in expected.items()})


def longest_common(a, b):
    """By the definition: the last tokens are the same, or one of them is not in it."""

    @functools.cache
    def longest(i, j):
        if not (i and j):
            return 0
        if a[i - 1] == b[j - 1]:
            return 1 + longest(i - 1, j - 1)
        return max(longest(i - 1, j), longest(i, j - 1))

    return longest(len(a), len(b))


@given(st.text("北京大雪", min_size=1, max_size=9), st.text("北京大雪", min_size=1, max_size=9))
def test_rouge_of_characters_is_the_papers(prediction, reference):
    def f1(common, a, b):
        return 2 * common / (a + b) if common else 0.0

    def common(n):
        first, second = (
            [text[i : i + n] for i in range(len(text) - n + 1)] for text in (prediction, reference)
        )
        shared = sum(min(first.count(gram), second.count(gram)) for gram in set(first))
        return f1(shared, len(first), len(second))

    lcs = f1(longest_common(prediction, reference), len(prediction), len(reference))
    expected = {"rouge1": common(1), "rouge2": common(2), "rougeL": lcs}
    assert rouge_scores([prediction], [reference]) == pytest.approx(expected)


def test_rouge_does_not_mind_case_width_and_punctuation():
    assert set(rouge_scores(["Ｔ５：１９９８年！"], ["t5 1998 年"]).values()) == {1.0}
    assert rouge_scores(["a b", "c"], ["a b", "d"])["rouge1"] == 0.5
    assert rouge_scores([""], ["a"])["rougeL"] == 0.0


def test_bad_summaries_to_measure():
    with pytest.raises(ValueError, match="1 predictions, 2 references"):
        rouge_scores(["a"], ["a", "b"])
    with pytest.raises(TypeError, match="list of predictions"):
        rouge_scores("a", ["a"])


def test_the_lead_is_the_first_sentence_not_more():
    assert lead_baseline(["Dr. Watson came. He left.", ""], 99) == ["Dr. Watson came.", ""]
    assert lead_baseline(["今天下雪。明天晴。"], 99, "zh") == ["今天下雪。"]
    assert lead_baseline(["今天下雪。明天晴。"], 3) == ["今天下"]
    with pytest.raises(ValueError, match="max_length=0"):
        lead_baseline(["a"], 0)


def test_wordpieces_are_written_with_the_spaces_of_print():
    tokenizer = WordPieceTokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"好，ab", "##b"])
    backbone = Transformer(1, 8, 2, 8, tokenizer.vocabulary_size())
    model = summarizer(backbone, tokenizer, target_length=5)
    graph = tf.function(model.serve)(tf.constant(["好，a"]))
    assert graph["summary"].numpy()[0].decode() == model.summarize(["好，a"])[0]


def test_first_clauses_are_where_passages_begin():
    articles = ["Snow tonight, they say. Dr. Watson paid 3.50: too much! He left.", "", "，。"]
    passages, clauses = first_clauses(articles, per_article=2)
    assert clauses == ["Snow tonight", "Dr. Watson paid 3.50"]
    assert passages == [articles[0], articles[0][len("Snow tonight, they say. ") :]]

    real, _ = corpora.headlines(corpora.load("peoples_daily_1998").split(0.1, 0.01).test)
    passages, clauses = first_clauses(real, language="zh", per_article=4)
    assert len(clauses) > 50
    for passage, clause in zip(passages, clauses, strict=True):
        assert passage.startswith(clause)
        assert any("".join(passage.split()) in "".join(text.split()) for text in real)


def test_first_clauses_of_nothing():
    with pytest.raises(ValueError, match="empty"):
        first_clauses([])
    with pytest.raises(TypeError, match="put it in a list"):
        first_clauses("Snow tonight.")
