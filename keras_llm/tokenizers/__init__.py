"""Text to ids and back: one tokenizer for Python, tf.data and served graphs."""

from keras_llm.tokenizers.byte_pair import BytePairTokenizer
from keras_llm.tokenizers.unigram import UnigramTokenizer
from keras_llm.tokenizers.wordpiece import WordPieceTokenizer

__all__ = ["BytePairTokenizer", "UnigramTokenizer", "WordPieceTokenizer"]
