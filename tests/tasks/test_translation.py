import math
import subprocess
import sys

import battery
import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from keras_llm import serving, training
from keras_llm.generation import beam_search
from keras_llm.models import Transformer
from keras_llm.tasks import SequenceToSequencePreprocessor, Translator
from keras_llm.tasks.text_task import _of_like_length
from keras_llm.tokenizers import WordPieceTokenizer

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
ENGLISH = ["one", "two", "three", "four", "five", "%", "1", "`", "a", "_", "b"]
CHINESE = ["一", "二", "三", "四", "五"]
TOKENIZER = WordPieceTokenizer([*SPECIALS, *ENGLISH, *CHINESE], lowercase=False)


def pairs(count=64, seed=0):
    """Numbers in English and the same in Chinese."""
    rng = np.random.default_rng(seed)
    rows = [rng.integers(0, 5, rng.integers(1, 6)) for _ in range(count)]
    sources = [" ".join(ENGLISH[n] for n in row) for row in rows]
    return sources, ["".join(CHINESE[n] for n in row) for row in rows]


def translator(strategy=None, optimizer=None, **overrides):
    keras.utils.set_random_seed(0)
    sizes = {"num_layers": 1, "hidden_dim": 32, "num_heads": 2, "intermediate_dim": 64}
    sizes |= {"vocabulary_size": len(TOKENIZER.vocabulary), "dropout": 0.0, **overrides}
    with (strategy or tf.distribute.get_strategy()).scope():
        model = Translator(Transformer(**sizes), TOKENIZER, sequence_length=12)
        model.compile(optimizer or training.AdamW(5e-3))
    return model


@pytest.fixture(scope="module")
def trained():
    rates = training.WarmupLinearDecay(5e-3, total_steps=400)
    model = translator(optimizer=training.AdamW(rates), norm_first=True)
    sources, targets = pairs(512)
    model.fit(sources, targets, epochs=25, verbose=0)
    return model


def test_translates_what_it_has_not_seen(trained):
    sources, targets = pairs(40, seed=1)
    for num_beams in (1, 4):
        hypotheses = trained.translate(sources, num_beams=num_beams, verbose=0)
        assert np.mean([h == t for h, t in zip(hypotheses, targets, strict=True)]) > 0.8
    assert trained.evaluate(sources, targets, verbose=0)["accuracy"] > 0.9


def textbook_translation(model, source):
    """Start token, predict, append the most probable, until the end token or the limit."""
    tokenizer, target = model.preprocessor.tokenizer, []
    x = model.preprocessor(tf.constant([source]))
    while len(target) < model.sequence_length and tokenizer.end_token_id not in target:
        read = np.array([[tokenizer.start_token_id, *target]], "int32")
        x |= {
            "decoder_token_ids": tf.constant(read),
            "decoder_padding_mask": tf.ones_like(read, bool),
        }
        logits = model(x)  # (1, target, vocabulary)
        target.append(int(np.argmax(logits[0, -1])))
    return target


@pytest.mark.parametrize("learned", [False, True])
def test_greedy_with_a_cache_is_the_textbooks_loop_without(trained, learned):
    model = trained if learned else translator()
    sources, _ = pairs(12, seed=2)
    ids = model._write(tf.constant(sources), 12, 1, 0.6).numpy()
    for source, row in zip(sources, ids, strict=True):
        expected = textbook_translation(model, source)
        assert row[: len(expected)].tolist() == expected
        assert not row[len(expected) :].any()


def test_beams_with_a_cache_are_those_without(trained):
    sources, _ = pairs(6, seed=3)
    x = trained.preprocessor(tf.constant(sources))
    encoded = trained.backbone.encode(x["encoder_token_ids"], x["encoder_padding_mask"])
    encoded, mask = tf.repeat(encoded, 3, 0), tf.repeat(x["encoder_padding_mask"], 3, 0)

    def next_logits(tokens, index, written):  # reads all that is written, anew at each step
        written = keras.ops.slice_update(written, (0, index), tokens[:, None])
        vectors, _ = trained.backbone.decode(written, encoded, encoder_padding_mask=mask)
        return trained.backbone.logits(vectors[:, index]), written

    written = np.zeros((18, 12), "int32")
    start, end = TOKENIZER.start_token_id, TOKENIZER.end_token_id
    expected, _ = beam_search(next_logits, written, 6, start, end, 12, num_beams=3)
    actual = trained._write(tf.constant(sources), 12, 3, 0.6)
    np.testing.assert_array_equal(actual, battery.numpy(expected))


@pytest.mark.parametrize("num_beams", [1, 2])
def test_a_translation_does_not_depend_on_the_others(trained, num_beams):
    sources, _ = pairs(9, seed=4)
    together = trained.translate(sources, num_beams=num_beams, batch_size=4, verbose=0)
    assert together == [trained.translate([s], num_beams=num_beams)[0] for s in sources]
    assert together == trained.predict(sources, num_beams=num_beams, verbose=0)


def test_one_and_two_replicas_train_alike():
    sources, targets = pairs(45)
    sources[7], targets[7] = "one " * 200, "一" * 200  # a batch of its own: one replica gets none
    weights = []
    for strategy in (tf.distribute.get_strategy(), training.strategy()):
        model = translator(strategy)
        assert 1 in [len(x) for x, _ in model._batches([sources, targets], 3, 1, seed=0)]
        model.fit(sources, targets, batch_size=3, verbose=0)
        weights.append(model.get_weights())
    battery.assert_close(weights[0], weights[1], 1e-5)


def test_keras_file_round_trip_continues_training(tmp_path):
    model, (sources, targets) = translator(), pairs(16)
    model.fit(sources, targets, verbose=0)
    model.save(tmp_path / "translator.keras")
    loaded = keras.models.load_model(tmp_path / "translator.keras")
    assert loaded.translate(sources, verbose=0) == model.translate(sources, verbose=0)
    for m in (model, loaded):
        m.fit(sources, targets, verbose=0)
    battery.assert_close(loaded.get_weights(), model.get_weights())


def test_a_file_from_before_there_were_other_settings_loads():
    config = translator().get_config()
    old = {name: config[name] for name in ("backbone", "tokenizer", "sequence_length", "name")}
    assert Translator.from_config(old).get_config() == config


def test_the_export_translates_as_the_model_does(tmp_path, trained):
    sources, _ = pairs(6, seed=5)
    served = serving.check(serving.export(trained, tmp_path / "export"), sources)
    assert served == {"translation": trained.translate(sources)}


def test_a_saved_translator_loads_in_another_process(tmp_path):
    model, (sources, _) = translator(), pairs(3)
    model.save(tmp_path / "translator.keras")
    code = "import sys, keras; from keras_llm import tasks; print(keras.models.load_model("
    code += "sys.argv[1]).translate(sys.argv[2:], verbose=0))"
    command = [sys.executable, "-c", code, str(tmp_path / "translator.keras"), *sources]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert process.stdout == f"{model.translate(sources, verbose=0)}\n", process.stderr


def test_dataset_of_pairs_trains_as_lists_do():
    model, other, (sources, targets) = translator(), translator(), pairs(16)
    model.fit(sources, targets, batch_size=16, epochs=2, verbose=0)  # one batch: order is nothing
    other.fit(tf.data.Dataset.from_tensor_slices((sources, targets)).batch(16), epochs=2, verbose=0)
    battery.assert_close(other.get_weights(), model.get_weights(), 1e-5)


def test_sample_weights_of_zero_are_as_good_as_absence():
    model, other, (sources, targets) = translator(), translator(), pairs(16)
    real = [1.0] * 10 + [0.0] * 6
    model.fit(sources, targets, batch_size=16, sample_weight=real, verbose=0)
    other.fit(sources[:10], targets[:10], batch_size=10, verbose=0)
    battery.assert_close(other.get_weights(), model.get_weights(), 1e-5)


def test_by_default_it_is_trained_as_in_the_paper():
    model = translator()
    model.compile()
    optimizer, loss = model.optimizer, model.loss
    assert (optimizer.beta_1, optimizer.beta_2, optimizer.epsilon) == (0.9, 0.98, 1e-9)
    schedule = optimizer._learning_rate
    assert isinstance(schedule, training.WarmupInverseSquareRootDecay)
    assert (schedule.hidden_dim, schedule.warmup_steps) == (32, 4000)
    assert loss.label_smoothing == 0.1
    sources, targets = pairs(8)
    model.fit(sources, targets, verbose=0)


def test_inputs_targets_and_what_is_asked_for():
    preprocess = SequenceToSequencePreprocessor(TOKENIZER, sequence_length=4)
    x, y, weights = preprocess(
        tf.constant(["one two", ""]), tf.constant(["二一", "一二三四五"]), tf.constant([1.0, 0.5])
    )
    one, two, yi, er, san = (TOKENIZER.token_to_id(t) for t in ("one", "two", "一", "二", "三"))
    assert x["encoder_token_ids"].numpy().tolist() == [[one, two, 3], [3, 0, 0]]
    assert x["encoder_padding_mask"].numpy().tolist() == [[True] * 3, [True, False, False]]
    assert x["decoder_token_ids"].numpy().tolist() == [[2, er, yi, 0], [2, yi, er, san]]
    assert y.numpy().tolist() == [[er, yi, 3, 0], [yi, er, san, 3]]
    assert weights.numpy().tolist() == [[1, 1, 1, 0], [0.5] * 4]


@given(
    st.lists(st.integers(2, 300), min_size=1, max_size=60),
    st.integers(1, 70),
    st.integers(0, 9),
)
def test_every_epoch_holds_every_pair_once_in_as_many_batches(lengths, batch_size, seed):
    batches = _of_like_length(np.array(lengths), batch_size, np.random.default_rng(seed))
    assert len(batches) == math.ceil(len(lengths) / batch_size)
    assert all(map(len, batches))
    assert sorted(np.concatenate(batches)) == list(range(len(lengths)))


def test_batches_hold_as_many_tokens_and_little_padding():
    lengths = np.random.default_rng(0).geometric(0.05, 2000) + 1  # mean 21
    batches = _of_like_length(lengths, 32, np.random.default_rng(0))
    tokens = [lengths[rows].sum() for rows in batches]
    assert np.std(tokens) < 0.1 * np.mean(tokens)
    padded = sum(len(rows) * lengths[rows].max() for rows in batches)
    assert padded < 1.4 * lengths.sum()
    other = _of_like_length(lengths, 32, np.random.default_rng(1))
    assert {tuple(sorted(rows)) for rows in batches}.isdisjoint(tuple(sorted(r)) for r in other)


def test_batches_are_the_pairs_in_an_order_of_seed_and_epoch():
    model, columns = translator(), pairs(50)
    batches = list(model._batches(columns, 8, 2, seed=0))
    assert len(batches) == 14
    for epoch in (batches[:7], batches[7:]):
        sources, targets = (np.concatenate([b[i].numpy() for b in epoch]) for i in (0, 1))
        seen = [(x.decode(), y.decode()) for x, y in zip(sources, targets, strict=True)]
        assert sorted(seen) == sorted(zip(*columns, strict=True))
    texts = [[x.numpy().tolist() for x, _ in model._batches(columns, 8, 2, s)] for s in (0, 0, 1)]
    assert texts[0] == texts[1] != texts[2]
    assert texts[0][:7] != texts[0][7:]


def test_what_is_copied_is_spelled_as_in_the_source():
    words = [*SPECIALS, *"%1`_{}", "open", "my", "data", "a", "jupyter", "##lab", "开", "打"]
    model = Translator(Transformer(1, 8, 2, 8, 30), WordPieceTokenizer(words))

    def spelled(translation, source):
        return model._spelled([model.preprocessor.tokenizer.encode(translation)], [source])[0]

    assert model.preprocessor.tokenizer.decode([5, 6]) == "% 1"
    assert spelled("打开%1", "Open %1.") == "打开%1"
    assert spelled("打开`my_data`", "Open `my_data`") == "打开`my_data`"
    assert spelled("打开JupyterLab", "Open JupyterLab") == "打开JupyterLab"
    assert spelled("打开data", "A file") == "打开data", "only whole words are replaced"
    assert spelled("打开%1", "Open") == "打开% 1", "not in the source"


@pytest.mark.parametrize(
    ("sources", "targets", "error", "message"),
    [
        ("one two", ["一二"], TypeError, "put it in a list"),
        ([], [], ValueError, "list of texts is empty"),
        (["one"], None, ValueError, r"Translations are missing.*fit\(texts, translations\)"),
        (["one"], ["一", "二"], ValueError, "1 texts, 2 translations"),
        (["one"], [None], TypeError, r"translations\[0\] is None"),
    ],
)
def test_bad_pairs_are_named_before_training(sources, targets, error, message):
    with pytest.raises(error, match=message):
        translator().fit(sources, targets, verbose=0)


def test_bad_requests(trained):
    with pytest.raises(TypeError, match="put it in a list"):
        trained.translate("one")
    with pytest.raises(ValueError, match="max_length=0"):
        trained.translate(["one"], max_length=0)
    with pytest.raises(ValueError, match="num_beams=0"):
        trained.translate(["one"], num_beams=0)


def test_an_empty_text_and_a_limit(trained):
    assert trained.translate(["", "one two three"], max_length=1, verbose=0)[1] in CHINESE


def test_parts_that_do_not_fit():
    with pytest.raises(ValueError, match="21 tokens and the backbone only 20"):
        translator(vocabulary_size=20)
    with pytest.raises(ValueError, match="sequence_length=1"):
        Translator(Transformer(1, 8, 2, 8, 30), TOKENIZER, sequence_length=1)
