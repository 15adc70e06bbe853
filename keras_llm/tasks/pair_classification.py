"""Classification of pairs: whether one text follows from another, answers it, says the same."""

import keras

from keras_llm.tasks.classification import TextClassifier
from keras_llm.tasks.preprocessing import TextPairClassifierPreprocessor
from keras_llm.tasks.text_task import as_strings


@keras.saving.register_keras_serializable(package="keras_llm")
class TextPairClassifier(TextClassifier):
    """A `TextClassifier` of two texts that are read together: what is one to the other?

    "BERT" (Devlin et al., 2018), section 4.1: both texts stand in one row, `[CLS] text [SEP]
    text_pair [SEP]`, so that each token of one can attend to each of the other.

    `fit`, `evaluate`, `predict`, `calibrate` and `report` take a list of pairs, (text, text_pair),
    instead of a list of texts, or a batched `tf.data.Dataset` of strings (batch, 2).

    Args:
        backbone: as in `TextClassifier`.
        tokenizer: as in `TextClassifier`.
        classes: list of str, the names of the classes, such as "entailment", "neutral" and
            "contradiction".
        sequence_length: int, the most tokens of both texts, at least 6; of a longer pair the longer
            text is cut, then both alike. By default what the backbone takes, 128 at most.
        **kwargs: `dropout`, `pooling`, `multi_label`, `threshold`, `abstain_below` and
            `abstain_label` as in `TextClassifier`; `name`, `compile` of `keras_hub.models.Task`.

    Raises:
        ValueError: as `TextClassifier`.

    Example:
        >>> from keras_llm.models import BertBackbone
        >>> from keras_llm.tokenizers import WordPieceTokenizer
        >>> pairs = [("Who came?", "Ada came."), ("Who came?", "It rains.")] * 4
        >>> tokenizer = WordPieceTokenizer.train([text for pair in pairs for text in pair], 30)
        >>> model = TextPairClassifier(BertBackbone.tiny(30), tokenizer, ["answer", "other"])
        >>> model.compile()
        >>> history = model.fit(pairs, ["answer", "other"] * 4, verbose=0)
        >>> model.predict([("Who came?", "Ada.")], verbose=0)["probabilities"].shape
        (1, 2)
    """

    preprocessor_class = TextPairClassifierPreprocessor

    def serve(self, text, text_pair):
        """As of a `TextClassifier`, of two string tensors (batch,)."""
        return self._serve(self.serve_inputs(text, text_pair))

    def serve_inputs(self, text, text_pair):
        """What the model reads of pairs: string tensors (batch,) to the preprocessor's dict."""
        return self.preprocessor.of_columns(text, text_pair)

    def _as_texts(self, x):
        return as_pairs(x)


def as_pairs(values):
    """Returns pairs of texts as a list of tuples, or says what stands there instead.

    Args:
        values: iterable of pairs of str.

    Returns:
        List of tuples of two str.

    Raises:
        TypeError: a single string, or something else than a pair of strings among them.
        ValueError: there are none.

    Example:
        >>> as_pairs([("Who came?", "Ada."), "Who came?"])
        Traceback (most recent call last):
        TypeError: texts[1] is 'Who came?', not a pair of texts: (text, text_pair).
    """
    if isinstance(values, (str, bytes)):
        raise TypeError(f"Expected a list of pairs of texts, got the string {values!r}.")
    pairs = list(values)
    if not pairs:
        raise ValueError("The list of pairs of texts is empty.")
    for i, pair in enumerate(pairs):
        if isinstance(pair, (str, bytes)) or not hasattr(pair, "__len__") or len(pair) != 2:
            raise TypeError(f"texts[{i}] is {pair!r}, not a pair of texts: (text, text_pair).")
        pairs[i] = tuple(as_strings(pair, f"texts[{i}]"))
    return pairs
