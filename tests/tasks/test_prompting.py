import keras
import keras_hub
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_llm import serving, training
from keras_llm.models import (
    BertBackbone,
    BertForPretraining,
    GPT2Backbone,
    GPT2CausalLM,
    LlamaBackbone,
    LlamaCausalLM,
    RobertaBackbone,
    RobertaMaskedLM,
)
from keras_llm.tasks import CausalPromptPreprocessor, MaskedPromptPreprocessor, PromptClassifier
from keras_llm.tokenizers import BytePairTokenizer, WordPieceTokenizer

WORDS = ["good", "bad", "film", "very", "a", "it", "was", "great", "##ly", ".", ":", "fine"]
TOKENIZER = WordPieceTokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS])
TEXTS = ["a good film", "", "very bad, a film", "film " * 40, "bad", "it was good"]
LABELS = ["positive", "negative"] * 3
PATTERN = "{text}. It was {label}."
VERBALIZER = {"negative": "bad", "positive": ["good", "great"]}
BYTES = BytePairTokenizer.train(
    ["A good film. It was good.", "A bad film. It was bad: great greatly"] * 3,
    280,
    special_tokens=BytePairTokenizer.ROBERTA,
)
GPT = BytePairTokenizer.train(["A good film. It was good.", "A bad film. It was bad."] * 3, 270)
SIZES = {"num_layers": 1, "num_heads": 2, "hidden_dim": 16, "intermediate_dim": 32, "dropout": 0.0}


def bert(backbone=BertBackbone, model=BertForPretraining, tokenizer=TOKENIZER, length=16):
    size = tokenizer.vocabulary_size()
    return model(backbone(vocabulary_size=size, max_sequence_length=length, **SIZES))


def roberta():
    return bert(RobertaBackbone, RobertaMaskedLM, BYTES, length=32)


def gpt2(length=48):
    size = GPT.vocabulary_size()
    return GPT2CausalLM(GPT2Backbone(vocabulary_size=size, max_sequence_length=length, **SIZES))


def llama():
    sizes = SIZES | {"num_query_heads": 2, "num_key_value_heads": 1}
    del sizes["num_heads"], sizes["dropout"]
    return LlamaCausalLM(LlamaBackbone(vocabulary_size=GPT.vocabulary_size(), **sizes))


def classifier(language_model=bert, tokenizer=TOKENIZER, strategy=None, **kwargs):
    keras.utils.set_random_seed(0)
    arguments = {"pattern": PATTERN, "verbalizer": VERBALIZER} | kwargs
    with (strategy or tf.distribute.get_strategy()).scope():
        language_model = language_model()
        for weight in language_model.weights:  # larger than at the beginning: probabilities differ
            if weight.ndim == 2:
                weight.assign(weight * 10)
        model = PromptClassifier(language_model, tokenizer, **arguments)
        model.compile(training.AdamW(0.01))
    return model


def causal(language_model=gpt2, **kwargs):
    return classifier(language_model, GPT, **({"pattern": "{text}. It was {label}"} | kwargs))


def probabilities(model, texts=TEXTS, **kwargs):
    return model.predict(texts, verbose=0, **kwargs)["probabilities"]


def unit_sums(values):
    return values / values.sum(axis=-1, keepdims=True)


MASKED = {
    "BERT": (bert, TOKENIZER),
    "KerasHub's BERT": (lambda: bert(keras_hub.models.BertBackbone), TOKENIZER),
    "RoBERTa": (roberta, BYTES),
}


@pytest.mark.parametrize("name", MASKED)
def test_the_words_at_the_mask(name):
    language_model, tokenizer = MASKED[name]
    model = classifier(language_model, tokenizer)
    expected, length = [], model.sequence_length
    for text in TEXTS:
        # "film film ...": what is left is as many tokens as there is room for.
        behind = [tokenizer.encode(part) for part in (". It was", ".")]
        room = length - 3 - sum(map(len, behind))
        ids = [tokenizer.start_token_id, *tokenizer.encode(text.strip())[:room], *behind[0]]
        mask = len(ids)
        ids = np.array([[*ids, tokenizer.mask_token_id, *behind[1], tokenizer.end_token_id]])
        assert ids.shape[1] <= length
        x = {"token_ids": ids, "padding_mask": np.ones_like(ids, bool), "segment_ids": ids * 0}
        x = {key: x[key] for key in model.backbone.input}
        logits = model.language_model({**x, "mask_positions": np.array([[mask]])})
        logits = logits["masked_lm"] if isinstance(logits, dict) else logits
        p = keras.ops.softmax(logits[0, 0]).numpy()
        bad, good, great = (p[tokenizer.encode(" " + word)[0]] for word in ("bad", "good", "great"))
        expected.append([bad, good + great])
    predicted = model.predict(TEXTS, batch_size=4, verbose=0)
    np.testing.assert_allclose(predicted["probabilities"], unit_sums(np.array(expected)), atol=1e-5)
    best = np.array(model.classes)[np.argmax(expected, axis=1)]
    assert predicted["label"].tolist() == best.tolist()
    assert np.ptp(predicted["probabilities"][:, 0]) > 1e-3  # or the test would not see much


@pytest.mark.parametrize("language_model", [gpt2, llama])
def test_the_words_that_follow(language_model):
    # Of one, two and many tokens; two begin alike.
    verbalizer = {"negative": ["bad", "badly"], "positive": ["good", "so very good"]}
    model = causal(language_model, verbalizer=verbalizer)
    scorer, expected = model.language_model, []
    for text in TEXTS:
        room = model.preprocessor.capacity
        prompt = [GPT.start_token_id, *GPT.encode(text.strip())[:room], *GPT.encode(". It was")]
        log_p = []
        for word in (word for words in verbalizer.values() for word in words):
            tokens = GPT.encode(" " + word)
            log_p.append(scorer.log_probabilities([np.array(prompt + tokens)])[0][-len(tokens) :])
        p = [np.exp(each.sum()) for each in log_p]
        expected.append([p[0] + p[1], p[2] + p[3]])
    assert len({len(tokens) for tokens in model.preprocessor.words}) > 2
    predicted = probabilities(model, batch_size=4)
    np.testing.assert_allclose(predicted, unit_sums(np.array(expected)), atol=1e-5)


ALPHABET = st.text("Ago dfilm.!,😀 好\n", min_size=1, max_size=12)


@pytest.mark.parametrize("pattern", ["{text} It: {label}", "A:\n{text}\nB: {label}"])
@settings(max_examples=5)
@given(texts=st.lists(ALPHABET.filter(str.strip).map(str.strip), min_size=8, max_size=8))
def test_prompts_are_tokenized_as_if_written_in_one(pattern, texts):
    preprocess = CausalPromptPreprocessor(GPT, pattern, {"x": ["good"], "y": ["bad"]})
    x = preprocess(tf.constant(texts))
    whole = [pattern.replace("{text}", text).removesuffix(" {label}") for text in texts]
    ids, real = x["token_ids"].numpy()[:, 0], x["padding_mask"].numpy()[:, 0]
    for row, mask, expected in zip(ids, real, GPT.encode_batch(whole), strict=True):
        assert row[mask].tolist() == [GPT.start_token_id, *expected]


def test_the_text_is_cut_and_the_pattern_is_not():
    preprocess = MaskedPromptPreprocessor(
        TOKENIZER, "it was {label}: {text}.", {"n": ["bad"], "p": ["good"]}, sequence_length=9
    )
    x = preprocess(tf.constant(["film " * 50, "good film"]))
    film, good, colon = (TOKENIZER.token_to_id(word) for word in ("film", "good", ":"))
    it, was, stop = (TOKENIZER.token_to_id(word) for word in ("it", "was", "."))
    assert x["token_ids"].numpy().tolist() == [
        [2, it, was, 4, colon, film, film, stop, 3],
        [2, it, was, 4, colon, good, film, stop, 3],
    ]
    assert x["mask_positions"].numpy().tolist() == [[3], [3]]
    assert preprocess.capacity == 2


def test_examples_are_solved_before_the_text():
    examples = [("A good film", "positive"), (" A bad film ", "negative")]
    model = causal(examples=examples, separator="\n\n")
    written = "A good film. It was good\n\nA bad film. It was bad\n\n{text}. It was {label}"
    other = causal(pattern=written, sequence_length=48)
    assert model.sequence_length == other.sequence_length
    texts = ["A film", "good", "bad film " * 40]
    np.testing.assert_allclose(probabilities(model, texts), probabilities(other, texts), atol=1e-6)
    assert np.abs(probabilities(model, texts) - probabilities(causal(), texts)).max() > 1e-3


def test_the_prior_is_taken_out():
    model = classifier()
    before, empty = probabilities(model), probabilities(model, ["", "a film"])
    model.temperature_scaling.temperature.assign(3.0)  # which changes nothing of the prior
    prior = model.subtract_prior(["", "a film"])
    model.temperature_scaling.temperature.assign(1.0)
    assert list(prior) == model.classes
    np.testing.assert_allclose(list(prior.values()), empty.mean(axis=0), atol=1e-6)
    expected = unit_sums(before / empty.mean(axis=0))
    np.testing.assert_allclose(probabilities(model), expected, atol=1e-5)
    again = model.subtract_prior(["", "a film"])  # it is not taken out twice
    assert again == pytest.approx(prior, abs=1e-6)

    model.subtract_prior([""])
    np.testing.assert_allclose(probabilities(model, [""]), 0.5, atol=1e-6)


@pytest.mark.filterwarnings("error::UserWarning")  # of weights without gradients
@pytest.mark.parametrize("make", [classifier, causal])
def test_fit_trains_through_the_pattern_and_stops_early(make):
    model = make()
    texts, labels = [*TEXTS[:1], *TEXTS[2:]], [*LABELS[:1], *LABELS[3:], "positive"]
    stop = keras.callbacks.EarlyStopping("loss", min_delta=1e-2, patience=2)
    history = model.fit(texts, labels, batch_size=5, epochs=60, callbacks=[stop], verbose=0)
    assert model.evaluate(texts, labels, verbose=0)["accuracy"] == 1.0
    assert len(history.epoch) < 60
    assert model.predict(texts, verbose=0)["label"].tolist() == labels


@pytest.mark.parametrize("make", [classifier, causal])
def test_one_and_two_replicas_train_alike_also_on_a_ragged_last_batch(make):
    weights = []
    for strategy in (tf.distribute.get_strategy(), training.strategy()):
        model = make(strategy=strategy)
        model.fit(TEXTS[:5], LABELS[:5], batch_size=4, verbose=0)
        weights.append(model.get_weights())
    for one, two in zip(*weights, strict=True):
        np.testing.assert_allclose(one, two, atol=1e-4)


@pytest.mark.filterwarnings("error::UserWarning")
@pytest.mark.parametrize("make", [classifier, causal])
def test_saved_loaded_and_served(make, tmp_path):
    model = make(examples=[("a film", "negative")] if make is causal else ())
    model.subtract_prior()
    model.calibrate(TEXTS, LABELS)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    configs = [m.get_config() for m in (loaded, model)]
    for config in configs:
        del config["language_model"]  # whose name is new
    assert configs[0] == configs[1]
    np.testing.assert_array_equal(probabilities(loaded), probabilities(model))
    served = serving.check(serving.export(loaded, tmp_path / "served"), TEXTS)
    assert served["label"] == model.predict(TEXTS, verbose=0)["label"].tolist()
    np.testing.assert_allclose(served["probabilities"], probabilities(model), atol=1e-5)


def test_what_does_not_fit():
    with pytest.raises(ValueError, match=r"has \{label\} 0 times, not once"):
        classifier(pattern="{text}. It was [MASK].")
    with pytest.raises(ValueError, match=r"has \{text\} 2 times, not once"):
        classifier(pattern="{text} {text} {label}")
    with pytest.raises(ValueError, match=r"end the pattern '\{text\}\. It was \{label\}\.' with"):
        causal(pattern=PATTERN)
    with pytest.raises(ValueError, match=r"The word 'goodly' is the tokens \['good', '##ly'\]"):
        classifier(verbalizer={"negative": "bad", "positive": "goodly"})
    with pytest.raises(ValueError, match=r"The word 'awful' is the tokens \['\[UNK\]'\]"):
        classifier(verbalizer={"negative": "awful", "positive": "good"})
    with pytest.raises(ValueError, match=r"The words \['good'\] stand in the verbalizer more than"):
        classifier(verbalizer={"negative": "good", "positive": "good"})
    with pytest.raises(ValueError, match="Of the word '' the tokenizer leaves no token"):
        causal(verbalizer={"negative": "", "positive": "good"}, pattern="{text}{label}")
    with pytest.raises(ValueError, match="classes must be two or more different names"):
        classifier(verbalizer={"positive": "good"})
    with pytest.raises(ValueError, match="Pattern and examples take 1 tokens too many of sequence"):
        classifier(sequence_length=7)
    with pytest.raises(ValueError, match="sequence_length=17 is more than the backbone's 16"):
        classifier(sequence_length=17)
    with pytest.raises(ValueError, match="An example has the label 'fine'"):
        classifier(examples=[("a film", "fine")])
    with pytest.raises(TypeError, match="BertBackbone is neither a masked nor a causal"):
        classifier(lambda: bert().backbone)
    with pytest.raises(ValueError, match="1 labels are not in classes"):
        classifier().fit(["a film"], ["fine"])
