"""Translation: strings in one language to strings in another."""

import re

import keras

from keras_llm.tasks.sequence_to_sequence import SequenceToSequence

# What translations copy, and tokenizers tear apart or lowercase: %1, `code`, Ctrl+C, JupyterLab.
VERBATIM = re.compile(r"[%$`{<]*\w+(?:[-_./:+]+\w+)*[`}>]*")


@keras.saving.register_keras_serializable(package="keras_llm")
class Translator(SequenceToSequence):
    """An encoder-decoder that learns from pairs of strings and translates strings.

    "Attention Is All You Need" (Vaswani et al., 2017). Sources and targets share one tokenizer,
    trained on both languages. Placeholders, code and names that the model copies from the source,
    such as `%1` and `JupyterLab`, are spelled as they are there, also where the tokenizer
    lowercases; in an export they are spelled as the tokenizer writes them.

    Args:
        backbone: an `EncoderDecoder`: `keras_llm.models.Transformer` or `T5Backbone`.
        tokenizer: a tokenizer of `keras_llm.tokenizers`.
        sequence_length: int, the most tokens of a source and of a target; the rest of a longer
            text is cut off.
        **kwargs: `target_length`, `prefix` and how to write, as in `SequenceToSequence`, and
            `name`, `compile` of `keras_hub.models.Task`. The paper's beams are 4.

    Raises:
        ValueError: the tokenizer has more tokens than the backbone; `sequence_length` is less
            than 2.
        TypeError: the backbone is no `EncoderDecoder`.

    Example:
        >>> from keras_llm.models import Transformer
        >>> from keras_llm.tokenizers import WordPieceTokenizer
        >>> from keras_llm.training import AdamW
        >>> keras.utils.set_random_seed(0)
        >>> sources, targets = ["good morning", "good night"] * 8, ["早上好", "晚安"] * 8
        >>> tokenizer = WordPieceTokenizer.train(sources + targets, 40)
        >>> model = Translator(Transformer(1, 32, 2, 64, vocabulary_size=40), tokenizer)
        >>> model.compile(AdamW(3e-3))
        >>> history = model.fit(sources, targets, epochs=12, verbose=0)
        >>> model.translate(["good night"])
        ['晚安']
    """

    target_name, targets_name = "translation", "translations"

    def translate(self, texts, *args, **kwargs):
        """Translates texts.

        Args:
            texts: list of str.
            *args: as in `write`: `num_beams`, `length_penalty`, `max_length`.
            **kwargs: as in `write`.

        Returns:
            List of str, one translation a text. The translation of a text does not depend on the
            others.
        """
        return self.write(texts, *args, **kwargs)

    def _spelled(self, ids, sources):
        """Writes ids as text, and what was copied from the source as it is spelled there."""
        tokenizer = self.preprocessor.tokenizer
        translations = tokenizer.detokenize(ids)
        for i, source in enumerate(sources):
            words = list(dict.fromkeys(VERBATIM.findall(source)))
            if not words:
                continue
            written = tokenizer.detokenize(tokenizer.encode_batch(words))  # "% 1", "jupyterlab"
            for word, form in zip(words, written, strict=True):
                if form != word:
                    whole = re.compile(rf"(?<!\w){re.escape(form)}(?!\w)", re.ASCII)
                    translations[i] = whole.sub(lambda _, word=word: word, translations[i])
        return translations
