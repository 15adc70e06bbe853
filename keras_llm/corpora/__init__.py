"""Where text comes from: bundled, from other packages, and the user's own files."""

from keras_llm.corpora.catalogue import available, load
from keras_llm.corpora.corpus import Corpus, Document
from keras_llm.corpora.files import from_files
from keras_llm.corpora.sentences import sentences

__all__ = ["Corpus", "Document", "available", "from_files", "load", "sentences"]
