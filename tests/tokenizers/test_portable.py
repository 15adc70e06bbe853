"""Engines of core ops give the ids of TensorFlow Text's, and graphs of nothing else."""

import functools
import io
import random
from itertools import islice

import numpy as np
import pytest
import sentencepiece
import tensorflow as tf
from sentencepiece import sentencepiece_model_pb2

from keras_llm import corpora
from keras_llm.tokenizers import BytePairTokenizer, UnigramTokenizer, WordPieceTokenizer
from keras_llm.tokenizers.portable import Replacements, read_replacements

ODD = [
    "Ce sont les élèves naïfs de l'école, près du Château d'Été. ",
    "한국어 문장도 있습니다. ひらがなとカタカナ。",
    "Ünïcödé ﬁnds Ⅳ ½ ａｂｃ in 1,234.50 of 99% #tags @you 🙂👍🏽 ",
]
SPEECHES = list(islice(corpora.load("state_of_the_union").texts(), 2))
POEMS = list(islice(corpora.load("tang_poems").texts(), 60))
TRAINING = [*ODD * 9, *SPEECHES, *POEMS]
FOUND = "".join(TRAINING)


def random_texts(count):
    """Texts of letters, accents, ideographs, emoji, spaces and code points of all of Unicode."""
    draw = random.Random(0)
    spaces = [" ", "  ", "   ", "\t", "\n", "\u00a0", "\u3000", "\u200b", "\0"]
    odd = [
        "[MASK]",
        "</s>",
        "▁",
        "##",
        "\ufffd",
        "e\u0301\u0327",
        "\u1100\u1161\u11a8",
        "ΟΔΟΣ",
        "İI",
        "🇨🇳",
    ]

    def piece():
        kind = draw.random()
        if kind < 0.6:
            start = draw.randrange(len(FOUND))
            return FOUND[start : start + draw.randrange(1, 9)]
        if kind < 0.8:
            return draw.choice(spaces)
        if kind < 0.88:
            return draw.choice(odd)
        if kind < 0.95:
            return chr(draw.choice([draw.randrange(0x20, 0x250), draw.randrange(0x4E00, 0x9FFF)]))
        return chr(draw.choice([draw.randrange(1, 0xD800), draw.randrange(0xE000, 0x110000)]))

    texts = ["", " ", "  ", "a" * 450, "aaaa " * 30, *TRAINING[:3]]
    return texts + ["".join(piece() for _ in range(draw.randrange(12))) for _ in range(count)]


def wordpiece(lowercase):
    return WordPieceTokenizer.train(TRAINING, 2500, lowercase)


def unigram(normalization, **kwargs):
    return UnigramTokenizer.train(TRAINING, 2500, normalization=normalization, **kwargs)


TOKENIZERS = {
    "uncased": lambda: wordpiece(True),
    "cased": lambda: wordpiece(False),
    "gpt2": lambda: BytePairTokenizer.train(TRAINING, 2500),
    "roberta": lambda: BytePairTokenizer.train(
        TRAINING, 2500, BytePairTokenizer.ROBERTA, add_prefix_space=True
    ),
    "llama3": lambda: BytePairTokenizer.train(TRAINING, 2500, pattern="llama3"),
    "t5": lambda: unigram("nmt_nfkc", num_sentinels=3),
    "xlnet": lambda: unigram("nmt_nfkc", special_tokens=UnigramTokenizer.XLNET, keep_accents=False),
    "identity": lambda: unigram("identity"),
}


@functools.cache
def tokenizer_of(name):
    return TOKENIZERS[name]()


@pytest.mark.parametrize("name", TOKENIZERS)
def test_same_ids_and_texts_on_ten_thousand_strings(name):
    tokenizer, texts = tokenizer_of(name), tf.constant(random_texts(10_000))
    expected = tokenizer.tokenize(texts)
    assert len(np.unique(expected.flat_values)) > 1500  # the texts use the vocabulary
    with tokenizer.portable():
        ids = tf.function(tokenizer.tokenize)(texts)
        written = tokenizer.detokenize(expected)
    different = [
        t
        for t, a, b in zip(texts.numpy(), ids.to_list(), expected.to_list(), strict=True)
        if a != b
    ]
    assert different == []
    assert written == tokenizer.detokenize(expected)


@pytest.mark.parametrize("name", ["uncased", "cased", "gpt2", "roberta", "llama3"])
def test_tokens_stand_at_the_same_places(name):
    tokenizer, texts = tokenizer_of(name), random_texts(1_000)
    expected = tokenizer.tokenize_with_offsets(texts)
    with tokenizer.portable():
        offsets = tokenizer.tokenize_with_offsets(texts)
    for column, other in zip(offsets, expected, strict=True):
        assert column.to_list() == other.to_list()


def test_every_code_point():
    tokenizer = tokenizer_of("uncased")
    texts = tf.constant([f"a{chr(i)}a" for i in range(1, 0x110000) if not 0xD800 <= i < 0xE000])
    expected = tokenizer.tokenize(texts)
    with tokenizer.portable():
        ids = tokenizer.tokenize(texts)
    np.testing.assert_array_equal(ids.row_splits, expected.row_splits)
    np.testing.assert_array_equal(ids.flat_values, expected.flat_values)


def test_replacements_are_those_of_sentencepiece():
    tokenizer = tokenizer_of("t5")
    texts = random_texts(2_000)
    normalizer = sentencepiece.SentencePieceNormalizer(
        model_proto=tokenizer.proto,
        add_dummy_prefix=False,
        escape_whitespaces=False,
        remove_extra_whitespaces=False,
    )
    model = sentencepiece_model_pb2.ModelProto.FromString(tokenizer.proto)
    replace = Replacements(read_replacements(model.normalizer_spec.precompiled_charsmap))
    written = [text.decode() for text in replace(tf.constant(texts)).numpy()]
    assert written == normalizer.normalize(texts)


def test_models_that_are_not_known_are_refused():
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SPEECHES[0].split(". ")),
        model_writer=model,
        model_type="bpe",
        vocab_size=400,
        byte_fallback=True,
        minloglevel=2,
    )
    tokenizer = UnigramTokenizer(model.getvalue())
    usual = tokenizer.encode("a speech")
    with (
        pytest.raises(ValueError, match="merges pairs and falls back to bytes"),
        tokenizer.portable(),
    ):
        pass
    assert tokenizer.encode("a speech") == usual


def test_nothing_stays_in_the_tokenizer():
    """An export that follows would have the tables in it."""
    tokenizer = tokenizer_of("uncased")
    before = {name for name, _ in tokenizer._trackable_children().items()}
    with tokenizer.portable():
        assert any(isinstance(o, tf.lookup.StaticHashTable) for o in trackables(tokenizer))
    assert not any(isinstance(o, tf.lookup.StaticHashTable) for o in trackables(tokenizer))
    assert {name for name, _ in tokenizer._trackable_children().items()} == before


def trackables(root):
    """All objects that TensorFlow would save with one."""
    found, waiting = [], [root]
    while waiting:
        found.append(waiting.pop())
        waiting += found[-1]._trackable_children().values()
    return found
