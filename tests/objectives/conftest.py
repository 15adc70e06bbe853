import pytest

from keras_llm import corpora
from keras_llm.tokenizers import WordPieceTokenizer


@pytest.fixture(scope="session")
def speeches():
    """Twelve speeches, about 0.4 million characters, as a list of documents."""
    documents = list(corpora.load("state_of_the_union"))
    return [documents[i] for i in range(0, 72, 6)]


@pytest.fixture(scope="session")
def tokenizer(speeches):
    return WordPieceTokenizer.train([document.text for document in speeches], 2000)
