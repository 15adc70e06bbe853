import tracemalloc
from functools import partial
from itertools import chain, islice, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from keras_llm.corpora import Corpus, Document, sentences
from keras_llm.objectives import next_sentence, sentence_pairs, streams


class Numbers:
    """A tokenizer for texts of numbers, so that each token says where it stands."""

    def encode_batch(self, texts):
        return [[int(word) for word in text.rstrip(".").split()] for text in texts]


@pytest.fixture
def by_sentences(monkeypatch):
    """Sentences end at every full stop."""
    monkeypatch.setattr(
        next_sentence.corpora,
        "sentences",
        lambda text, language: [part.strip() + "." for part in text.split(".") if part.strip()],
    )


def _numbered_corpus(lengths):
    """Documents of sentences of the given lengths; token = document * 10,000 + position."""
    documents = []
    for number, document in enumerate(lengths):
        bounds = np.cumsum([0, *document])
        tokens = [range(a, b) for a, b in pairwise(bounds)]
        text = " ".join(" ".join(str(number * 10_000 + t) for t in s) + "." for s in tokens)
        documents.append(Document(text, id=str(number)))
    return documents


documents = st.lists(st.lists(st.integers(1, 30), min_size=1, max_size=12), min_size=2, max_size=8)


@settings(max_examples=100, deadline=None)
@given(lengths=documents, sequence_length=st.integers(5, 60), seed=st.integers(0, 1000))
def test_properties(lengths, sequence_length, seed):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(next_sentence.corpora, "sentences", lambda text, _: text.split(". "))
        corpus = _numbered_corpus(lengths)
        pairs = list(sentence_pairs(corpus, Numbers(), sequence_length, seed))
        again = list(sentence_pairs(corpus, Numbers(), sequence_length, seed))
    assert pairs == again
    room = sequence_length - 3
    for first, second, follows in pairs:
        assert min(len(first), len(second)) >= 1
        assert len(first) + len(second) <= room
        for segment in (first, second):  # contiguous text of one document
            assert segment == list(range(segment[0], segment[-1] + 1))
            assert segment[0] // 10_000 == segment[-1] // 10_000
        assert follows == (first[0] // 10_000 == second[0] // 10_000)
        if follows:  # what is between the two, if any, was cut away for room
            gap = second[0] - first[-1] - 1
            assert gap == 0 or (gap > 0 and len(first) + len(second) == room)


@settings(max_examples=50, deadline=None)
@given(lengths=documents, seed=st.integers(0, 1000))
def test_all_text_is_used_when_nothing_is_cut(lengths, seed):
    """With room for any two documents, first segments and true nexts together are the corpus."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(next_sentence.corpora, "sentences", lambda text, _: text.split(". "))
        patch.setattr(next_sentence, "SHORT_PROBABILITY", 0)
        pairs = list(sentence_pairs(_numbered_corpus(lengths), Numbers(), 1000, seed))
    used = [t for first, second, follows in pairs for t in first + second * follows]
    expected = [d * 10_000 + t for d, document in enumerate(lengths) for t in range(sum(document))]
    assert used == expected


def test_tokens_fill_the_room(speeches, tokenizer):
    pairs = list(sentence_pairs(speeches, tokenizer, 64))
    lengths = np.array([len(pair.first) + len(pair.second) + 3 for pair in pairs])
    assert lengths.max() == 64
    full = np.mean(lengths == 64)
    assert 0.8 < full < 0.95  # all but the short ones and the ends of documents


def test_a_tenth_are_short(by_sentences):
    """With sentences of one token a pair is exactly as long as it aims at."""
    corpus = _numbered_corpus([[1] * 3000] * 12)
    pairs = list(sentence_pairs(corpus, Numbers(), 103))
    lengths = np.array([len(pair.first) + len(pair.second) for pair in pairs])
    short = int(np.sum(lengths < 100))
    # One in 99 of the short ones aims at the full length; a document's end adds a few more.
    assert stats.binomtest(short - 12, len(pairs), 0.1 * 98 / 99).pvalue > 1e-4
    assert stats.kstest(lengths[lengths < 100], stats.randint(2, 100).cdf).pvalue > 1e-4


def test_half_are_random(speeches, tokenizer):
    follows = [pair.follows for pair in sentence_pairs(speeches, tokenizer, 64)]
    assert len(follows) > 1500
    assert stats.binomtest(sum(follows), len(follows), 0.5).pvalue > 1e-4


def test_half_are_random_in_short_documents(by_sentences):
    """A document of three sentences often ends in one that has no next."""
    corpus = _numbered_corpus([[5, 5, 5]] * 300)
    follows = [pair.follows for pair in sentence_pairs(corpus, Numbers(), 13)]
    assert len(follows) > 450
    assert stats.binomtest(sum(follows), len(follows), 0.5).pvalue > 1e-4


def test_true_next_is_next_in_the_text(speeches, tokenizer):
    """Searched for in the tokens of the whole documents."""
    texts = {}
    for document in speeches:
        ids = chain.from_iterable(tokenizer.encode_batch(sentences(document.text, "en")))
        texts[document.id] = " ".join(map(str, ids))

    def found_in(ids):
        words = " ".join(map(str, ids))
        return {id for id, text in texts.items() if f" {words} " in f" {text} "}

    for first, second, follows in islice(sentence_pairs(speeches, tokenizer, 64, seed=1), 300):
        if len(first) + len(second) < 61:  # not cut, so adjacent means one stretch
            assert bool(found_in(first + second)) == follows
        if not follows and len(first) > 5 and len(second) > 5:
            assert not found_in(first) & found_in(second)


def test_seeds_and_epochs_differ(speeches, tokenizer):
    variants = [
        list(islice(sentence_pairs(speeches, tokenizer, 64, **options), 20))
        for options in ({}, {"seed": 1}, {"epoch": 1}, {"seed": 0, "epoch": 0})
    ]
    assert variants[0] == variants[3]
    assert variants[0] != variants[1] != variants[2] != variants[0]


def test_blocks_do_not_depend_on_each_other(speeches, tokenizer, monkeypatch):
    monkeypatch.setattr(streams, "BLOCK_CHARACTERS", 100_000)
    blocks = [
        (block.number, list(block.pairs))
        for block in next_sentence.pair_blocks(speeches, tokenizer, 64)
    ]
    assert len(blocks) > 3
    odd = next_sentence.pair_blocks(speeches, tokenizer, 64, wanted=lambda number: number % 2)
    assert [(block.number, list(block.pairs)) for block in odd] == blocks[1::2]


def test_over_long_document_in_parts(by_sentences, monkeypatch):
    """Blocks of parts of one document take their random sentences from another document."""
    monkeypatch.setattr(streams, "BLOCK_CHARACTERS", 1000)
    parts = [Document(d.text, id="giant") for d in _numbered_corpus([[5] * 40] * 6)]
    stranger = Document("990000 990001. 990002.", id="stranger")
    for corpus in ([*parts, stranger], [stranger, *parts]):
        pairs = list(sentence_pairs(corpus, Numbers(), 32))
        giant = [pair for pair in pairs if pair.first[0] < 990_000]
        assert {pair.second[0] >= 990_000 for pair in giant if not pair.follows} == {True}
        assert 0.3 < np.mean([pair.follows for pair in giant]) < 0.7


def test_endless_sentence_is_not_lost(by_sentences):
    corpus = _numbered_corpus([[5000], [3, 3]])
    pairs = list(sentence_pairs(corpus, Numbers(), 35))
    used = {t for first, second, follows in pairs for t in first + second * follows if t < 10_000}
    assert len(used) > 4500


def test_language_of_the_corpus_is_used(tokenizer):
    seen = set()

    def spy(text, language):
        seen.add(language)
        return sentences(text, language)

    texts = [Document("你好。世界。", id="1"), Document("新年好！", id="2")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(next_sentence.corpora, "sentences", spy)
        list(sentence_pairs(Corpus("zh", partial(iter, texts), language="zh"), tokenizer))
        assert seen == {"zh"}
        list(sentence_pairs(texts, tokenizer))
        assert seen == {"zh", "en"}


class _Repeated:
    def __init__(self, documents, times):
        self.documents, self.times = documents, times

    def __iter__(self):
        for time in range(self.times):
            for document in self.documents:
                yield Document(document.text, id=f"{document.id}/{time}")


def test_memory_does_not_grow(speeches, tokenizer, monkeypatch):
    monkeypatch.setattr(streams, "BLOCK_CHARACTERS", 100_000)
    peaks = []
    for times in (1, 5):
        tracemalloc.start()
        assert sum(1 for _ in sentence_pairs(_Repeated(speeches, times), tokenizer)) > 100
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]


# === Errors, each before any pair is asked for ===


@pytest.mark.parametrize("documents", [[], [Document("", id="1"), Document(" \n\u200b", id="2")]])
def test_empty_corpus(documents, tokenizer):
    with pytest.raises(ValueError, match="my corpus is empty"):
        sentence_pairs(Corpus("my corpus", partial(iter, documents)), tokenizer)


def test_single_document(tokenizer):
    parts = [Document("One. Two.", id="1"), Document("Three.", id="1", part=1)]
    with pytest.raises(ValueError, match="need at least two"):
        sentence_pairs(parts, tokenizer)


def test_iterator(speeches, tokenizer):
    with pytest.raises(TypeError, match="only once"):
        sentence_pairs(iter(speeches), tokenizer)


def test_no_room(speeches, tokenizer):
    with pytest.raises(ValueError, match="must be at least 5"):
        sentence_pairs(speeches, tokenizer, sequence_length=4)
    assert all(
        len(pair.first) == len(pair.second) == 1
        for pair in islice(sentence_pairs(speeches, tokenizer, sequence_length=5), 100)
    )
