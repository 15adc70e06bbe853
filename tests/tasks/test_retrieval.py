from itertools import pairwise

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_llm import corpora
from keras_llm.models import BertBackbone
from keras_llm.tasks import Found, Passage, QuestionAnswerer, Retriever, TextEmbedder
from keras_llm.tasks.retrieval import cut_into_passages
from keras_llm.tokenizers import WordPieceTokenizer

TEXTS = ["Ada came home.", "Max left.", "It rains in Rome, 李白 says.", "Who knows?", "Zoë sang."]
TOKENIZER = WordPieceTokenizer.train(TEXTS * 2, 50)
PASSAGES = [Passage(text, source=f"letter {i}", start=i) for i, text in enumerate(TEXTS)]


def backbone():
    keras.utils.set_random_seed(0)
    sizes = {"num_layers": 1, "num_heads": 2, "hidden_dim": 16, "intermediate_dim": 32}
    return BertBackbone(TOKENIZER.vocabulary_size(), max_sequence_length=40, **sizes)


@pytest.fixture(scope="module")
def embedder():
    return TextEmbedder(backbone(), TOKENIZER)


@pytest.fixture(scope="module")
def retriever(embedder):
    return Retriever(embedder, PASSAGES)


def test_finds_what_the_cosine_of_all_pairs_says(embedder, retriever):
    queries = ["Ada left.", "Rome?", "Max left."]
    cosines = embedder.similarity(queries, TEXTS)  # (queries, passages)
    found = retriever.search(queries, k=3)
    for row, here in zip(cosines, found, strict=True):
        best = np.argsort(-row)[:3]
        assert [f.passage for f in here] == [PASSAGES[i] for i in best]
        np.testing.assert_allclose([f.similarity for f in here], row[best], atol=1e-5)
    assert found[2][0].passage.text == "Max left."
    assert len(retriever.search(["Ada"], k=99)[0]) == len(TEXTS)


def test_vectors_need_not_be_of_length_one(embedder):
    plain = TextEmbedder(embedder.backbone, TOKENIZER, normalize=False)
    found = Retriever(plain, PASSAGES).search(["Ada left."], k=5)[0]
    expected = Retriever(embedder, PASSAGES).search(["Ada left."], k=5)[0]
    assert [f.passage for f in found] == [f.passage for f in expected]


def test_saved_and_loaded_finds_the_same(tmp_path, retriever):
    retriever.save(tmp_path / "letters")
    loaded = Retriever.load(tmp_path / "letters")
    assert loaded.passages == PASSAGES
    for mine, expected in zip(
        *(r.search(["Ada left."])[0] for r in (loaded, retriever)), strict=True
    ):
        assert mine.passage == expected.passage
        assert mine.similarity == pytest.approx(expected.similarity, abs=1e-6)
    assert [child.name for child in tmp_path.iterdir()] == ["letters"]
    with pytest.raises(FileExistsError, match="not empty"):
        retriever.save(tmp_path / "letters")
    with pytest.raises(FileNotFoundError, match="holds no retriever"):
        Retriever.load(tmp_path)


BOOK = {
    "Ada came home.": ("Ada", 0, 1.5),
    "Max left.": ("", 0, 9.0),
    "It rains in Rome, 李白 says.": ("李白", 18, 2.5),
}


class Reader:
    """Answers as written in a book: from a passage to answer, start and score."""

    def predict(self, questions, contexts, verbose):
        assert len(set(questions)) == 1
        columns = zip(*(BOOK.get(context, ("", 0, -3.0)) for context in contexts), strict=True)
        return dict(zip(("answer", "start", "score"), map(np.array, columns), strict=True))


def test_the_surest_answer_of_all_passages_comes_first(retriever):
    found = retriever.ask("Who speaks?", Reader(), k=5)
    assert [f.answer for f in found] == ["李白", "Ada", "", "", ""]
    assert found[0].passage == PASSAGES[2]
    assert found[0].passage.text[found[0].start :].startswith("李白")
    assert [f.score for f in found] == [2.5, 1.5, 9.0, -3.0, -3.0]
    near = retriever.search(["Who speaks?"], k=2)[0]
    read = retriever.ask("Who speaks?", Reader(), k=2)
    assert {f.passage for f in read} == {f.passage for f in near}


def test_a_real_reader_answers_with_spans_of_the_document(embedder):
    documents = [corpora.Document(" ".join(TEXTS), id="all")]
    retriever = Retriever.from_corpus(embedder, documents, num_words=4, batch_size=2)
    reader = QuestionAnswerer(backbone(), TOKENIZER, na_threshold=None)
    for found in retriever.ask("Who came home?", reader, k=3):
        start = found.passage.start + found.start
        assert found.answer
        assert documents[0].text[start : start + len(found.answer)] == found.answer
        assert found.passage.source == "all"


def test_passages_of_a_corpus():
    speech = next(iter(corpora.load("state_of_the_union")))
    cut = cut_into_passages(speech.text, "en", num_words=100)
    assert len(cut) > 5
    for text, start in cut:
        assert speech.text[start : start + len(text)] == text
    assert all(len(text.split()) >= 100 for text, _ in cut[:-1])
    outside = list(speech.text)
    for text, start in cut:
        outside[start : start + len(text)] = " " * len(text)
    assert not "".join(outside).strip()
    # A passage begins with the last sentence of the one before.
    for (text, start), (_, next_start) in pairwise(cut):
        assert start < next_start < start + len(text)
        assert text[next_start - start :] in corpora.sentences(text, "en")


@given(
    words=st.lists(st.sampled_from(["Ada came.", "He left the house!", "Why?", "你好。"])),
    num_words=st.integers(1, 12),
)
def test_neighbouring_passages_share_one_sentence_at_most(words, num_words):
    text = "  ".join(words)
    split = corpora.sentences(text, "en")
    cut = cut_into_passages(text, "en", num_words)
    spans = [(start, start + len(passage)) for passage, start in cut]
    assert all(text[a:b] == passage for (a, b), (passage, _) in zip(spans, cut, strict=True))
    assert spans == sorted(set(spans))
    for (_, end), (start, further) in pairwise(spans):
        assert end < further
        assert end < start or text[start:end] in split
    if split:
        assert (spans[0][0], spans[-1][1]) == (0, len(text))


def test_chinese_passages_are_counted_in_characters():
    text = "新年好。同志们！过去的一年很好。"
    assert cut_into_passages(text, "zh", num_words=8) == [
        ("新年好。同志们！", 0),
        ("同志们！过去的一年很好。", 4),
    ]


def test_what_is_refused(embedder, retriever):
    with pytest.raises(ValueError, match="no passages to search"):
        Retriever(embedder, [])
    with pytest.raises(ValueError, match="2 vectors, 5 passages"):
        Retriever(embedder, PASSAGES, np.ones((2, 16), "float32"))
    with pytest.raises(TypeError, match="put it in a list"):
        retriever.search("Who?")
    with pytest.raises(ValueError, match="k=0 must be at least 1"):
        retriever.search(["Who?"], k=0)
    with pytest.raises(TypeError, match="not a string"):
        retriever.ask(["Who?"], Reader())
    with pytest.raises(ValueError, match="num_words=0"):
        cut_into_passages("Ada came.", "en", 0)
    assert Found(PASSAGES[0], 0.5).score == 0.0
