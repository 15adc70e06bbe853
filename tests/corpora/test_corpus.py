import pickle
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_llm.corpora import Corpus, Document
from keras_llm.corpora.packages import Package

TEXTS = st.lists(st.text(max_size=20), max_size=60)


def corpus_of(texts, **options):
    documents = [Document(text, id=str(index)) for index, text in enumerate(texts)]
    return Corpus("toy", partial(iter, documents), **options)


@given(TEXTS, st.integers(), st.floats(0, 0.5), st.floats(0, 0.49))
def test_parts_are_disjoint_and_cover_the_corpus(texts, seed, validation, test):
    parts = corpus_of(texts).split(validation, test, seed)
    ids = [document.id for part in parts for document in part]
    assert sorted(ids, key=int) == [str(index) for index in range(len(texts))]


@given(TEXTS, st.integers(0, 5))
def test_parts_depend_on_the_text_alone(texts, seed):
    def part_of(corpus):
        parts = corpus.split(0.3, 0.3, seed)._asdict()
        return {text: name for name, part in parts.items() for text in part.texts()}

    longer = part_of(corpus_of([*reversed(texts), "another", *texts]))
    assert part_of(corpus_of(texts)) == {text: longer[text] for text in texts}


def test_copies_land_in_the_same_part():
    texts = [f"document {index % 50}" for index in range(200)]
    for part in corpus_of(texts).split(0.3, 0.3):
        assert set(Counter(part.texts()).values()) <= {4}


def test_parts_have_the_sizes_asked_for():
    corpus = corpus_of(f"document {index}" for index in range(10_000))
    sizes = [len(list(part)) for part in (corpus.train, corpus.validation, corpus.test)]
    # Five standard deviations of a binomial distribution with p = 0.05: 5 * sqrt(475) = 109.
    assert abs(sizes[1] - 500) < 109
    assert abs(sizes[2] - 500) < 109
    assert [part.name for part in corpus.split()] == ["toy[train]", "toy[validation]", "toy[test]"]


def test_seeds_give_other_splits_and_a_split_can_be_split_again():
    corpus = corpus_of(f"document {index}" for index in range(1_000))
    assert list(corpus.split(seed=1).test.texts()) != list(corpus.test.texts())
    again = corpus.split(0.2, 0.2).train.split(0.2, 0.2)
    sizes = [len(list(part)) for part in again]
    assert sum(sizes) == len(list(corpus.split(0.2, 0.2).train))
    assert min(sizes) > 60  # about 120: the second split is independent of the first


def test_parts_of_a_long_document_stay_together():
    documents = [
        Document(f"{name} {part}", id=str(name), part=part)
        for name in range(100)
        for part in range(3)
    ]
    for corpus in Corpus("long", partial(iter, documents)).split(0.3, 0.3):
        assert set(Counter(document.id for document in corpus).values()) == {3}


@pytest.mark.parametrize(("validation", "test"), [(-0.1, 0.1), (0.1, -0.1), (0.5, 0.5)])
def test_impossible_fractions(validation, test):
    with pytest.raises(ValueError, match="fractions"):
        corpus_of([]).split(validation, test)


def ids_of(corpus):
    return [document.id for document in corpus]


def test_a_corpus_goes_to_another_process_and_is_read_again():
    corpus = corpus_of([f"document {index}" for index in range(40)]).split(0.3, 0.3).test
    assert ids_of(pickle.loads(pickle.dumps(corpus))) == ids_of(corpus) != []
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        assert pool.submit(ids_of, corpus).result() == ids_of(corpus)


def reviews(*labels):
    documents = [Document(f"{index}", {"label": label}) for index, label in enumerate(labels)]
    return Corpus("reviews", partial(iter, [*documents, Document("no label", {"stars": 3})]))


def test_labelled():
    corpus = reviews("good", "bad", None, "so-so", 1)
    assert corpus.labelled() == (["0", "1", "3", "4"], ["good", "bad", "so-so", "1"])
    assert corpus.labelled("label", ("bad", "good")) == (["0", "1"], ["good", "bad"])


def test_labelled_names_what_there_is():
    with pytest.raises(ValueError, match=r"'sentiment'.*\['label', 'stars'\]"):
        reviews("good").labelled("sentiment")
    with pytest.raises(ValueError, match=r"\['awful'\].*found \['bad', 'good'\]"):
        reviews("good", "bad").labelled(classes=("good", "awful"))


def test_repr_shows_what_matters():
    shown = repr(corpus_of(["First words.\nMore"], language="en", licence="MIT", num_documents=1))
    for expected in ("toy", "MIT", "en", "documents  1\n", "First words. More"):
        assert expected in shown
    assert "(empty)" in repr(corpus_of([]))


def test_repr_fetches_nothing_and_never_fails(monkeypatch, tmp_path):
    monkeypatch.setenv("KERAS_LLM_CACHE", str(tmp_path))

    def read():
        raise ValueError("line 3 is broken")

    assert "line 3 is broken" in repr(Corpus("broken", read))
    package = Package("absent", "1.0", "", {"file": None})
    assert "first use" in repr(Corpus("far", read, package=package))
