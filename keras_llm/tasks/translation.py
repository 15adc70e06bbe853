"""Translation: strings in one language to strings in another."""

import re

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from keras_llm.generation import beam_search, greedy_search
from keras_llm.models.sizes import check_vocabulary
from keras_llm.tasks.preprocessing import TranslatorPreprocessor
from keras_llm.tasks.text_task import TextTask, as_strings, batches_of_like_length
from keras_llm.training import AdamW, GlobalMeanCrossentropy, WarmupInverseSquareRootDecay

# What translations copy, and tokenizers tear apart or lowercase: %1, `code`, Ctrl+C, JupyterLab.
VERBATIM = re.compile(r"[%$`{<]*\w+(?:[-_./:+]+\w+)*[`}>]*")


@keras.saving.register_keras_serializable(package="keras_llm")
class Translator(TextTask):
    """An encoder-decoder that learns from pairs of strings and translates strings.

    "Attention Is All You Need" (Vaswani et al., 2017). Sources and targets share one tokenizer,
    trained on both languages. Placeholders, code and names that the model copies from the source,
    such as `%1` and `JupyterLab`, are spelled as they are there, also where the tokenizer
    lowercases.

    Args:
        backbone: an `EncoderDecoder`: `keras_llm.models.Transformer` or `T5Backbone`.
        tokenizer: a tokenizer of `keras_llm.tokenizers`.
        sequence_length: int, the most tokens of a source and of a target; the rest of a longer
            text is cut off.
        **kwargs: `name`, `compile` of `keras_hub.models.Task`.

    Raises:
        ValueError: the tokenizer has more tokens than the backbone; `sequence_length` is less
            than 2.

    Example:
        >>> from keras_llm.models import Transformer
        >>> from keras_llm.tokenizers import WordPieceTokenizer
        >>> keras.utils.set_random_seed(0)
        >>> sources, targets = ["good morning", "good night"] * 8, ["早上好", "晚安"] * 8
        >>> tokenizer = WordPieceTokenizer.train(sources + targets, 40)
        >>> model = Translator(Transformer(1, 32, 2, 64, vocabulary_size=40), tokenizer)
        >>> model.compile(AdamW(3e-3))
        >>> history = model.fit(sources, targets, epochs=12, verbose=0)
        >>> model.translate(["good night"])
        ['晚安']
    """

    targets_name = "translations"

    def __init__(self, backbone, tokenizer, sequence_length=128, **kwargs):
        check_vocabulary(tokenizer, backbone)
        if sequence_length < 2:
            raise ValueError(f"sequence_length={sequence_length} must be at least 2.")

        # === Layers ===
        self.backbone = backbone
        self.preprocessor = TranslatorPreprocessor(tokenizer, sequence_length)

        # === Functional Model ===
        outputs = backbone(backbone.input)
        logits = backbone.logits(outputs["decoder_sequence_output"])  # (batch, target, vocabulary)
        super().__init__(inputs=backbone.input, outputs=logits, **kwargs)

        # === Config ===
        self.sequence_length = sequence_length

        self._write = tf.function(self._write_ids, autograph=False, reduce_retracing=True)

    def get_config(self):
        """Returns the constructor's arguments."""
        return {
            "backbone": keras.saving.serialize_keras_object(self.backbone),
            "tokenizer": keras.saving.serialize_keras_object(self.preprocessor.tokenizer),
            "sequence_length": self.sequence_length,
            "name": self.name,
        }

    def compile(self, optimizer="auto", loss="auto", *, weighted_metrics="auto", **kwargs):
        """Sets up training; by default as in the paper, section 5.

        Args:
            optimizer: `keras.optimizers.Optimizer`; "auto" is Adam with the paper's moments and
                schedule of 4,000 steps of warm-up, and gradients clipped as `training.AdamW` does.
                A run of few steps wants a shorter warm-up:
                `training.AdamW(training.WarmupInverseSquareRootDecay(hidden_dim, 400))`.
            loss: as in `keras.Model.compile`; "auto" is cross-entropy with 0.1 of label smoothing.
            weighted_metrics: as in `keras.Model.compile`; "auto" is the accuracy of the next token,
                given the right ones before it.
            **kwargs: further arguments of `keras.Model.compile`.
        """
        if optimizer == "auto":
            schedule = WarmupInverseSquareRootDecay(self.backbone.hidden_dim)
            optimizer = AdamW(schedule, beta_2=0.98, epsilon=1e-9, weight_decay=0.0)
        if weighted_metrics == "auto":
            weighted_metrics = [keras.metrics.SparseCategoricalAccuracy(name="accuracy")]
        super().compile(
            optimizer,
            GlobalMeanCrossentropy(label_smoothing=0.1) if loss == "auto" else loss,
            weighted_metrics=weighted_metrics,
            **kwargs,
        )

    def _batches(self, columns, batch_size, epochs, seed):
        """Returns the batches of all epochs: pairs of like length, about as many tokens in each.

        So little of a batch is padding (section 5.1), and a token of a long text counts as much as
        one of a short text. `batch_size` is the mean number of pairs.
        """
        sources, targets = (
            [len(ids) + 1 for ids in self.preprocessor.tokenizer.encode_batch(texts)]
            for texts in columns[:2]
        )
        lengths = np.add(sources, targets)  # (pairs,)
        return batches_of_like_length(columns, lengths, batch_size, epochs, seed)

    def translate(
        self,
        texts,
        num_beams=1,
        length_penalty=0.6,
        max_length=None,
        batch_size=64,
        verbose="auto",
    ):
        """Translates texts.

        Args:
            texts: list of str.
            num_beams: int. 1 appends the most probable token until the end (greedy search); more
                keep as many beginnings (beam search): better and slower. The paper's is 4.
            length_penalty: float, of beam search; more makes translations longer.
            max_length: int, the most tokens of a translation; by default `sequence_length`.
            batch_size: int, texts at once.
            verbose: 1 for a progress bar, 0 for none, "auto" for one where there are several
                batches.

        Returns:
            List of str, one translation a text. The translation of a text does not depend on the
            others.

        Raises:
            ValueError: no texts; `max_length` or `num_beams` is less than 1, or `length_penalty`
                less than 0.
            TypeError: a single string, or a list of something else than strings.
        """
        texts = np.array(as_strings(texts, "texts"), dtype=object)
        max_length = self.sequence_length if max_length is None else max_length
        by_length = np.argsort([len(text) for text in texts], kind="stable")
        batches = np.array_split(by_length, np.arange(batch_size, len(texts), batch_size))
        verbose = int(len(batches) > 1) if verbose == "auto" else verbose
        progress = keras.utils.Progbar(len(batches), unit_name="batch", verbose=verbose)
        translations = np.empty(len(texts), dtype=object)
        for rows in batches:
            ids = self._write(tf.constant(texts[rows]), max_length, num_beams, length_penalty)
            translations[rows] = self._spelled(ids.numpy(), texts[rows])
            progress.add(1)
        return translations.tolist()

    def predict(self, x, batch_size=64, verbose="auto", **kwargs):
        """The same as `translate`, under Keras' name."""
        return self.translate(x, batch_size=batch_size, verbose=verbose, **kwargs)

    def _spelled(self, ids, sources):
        """Writes ids as text, and what was copied from the source as it is spelled there."""
        tokenizer = self.preprocessor.tokenizer
        translations = tokenizer.detokenize(ids)
        for i, source in enumerate(sources):
            words = list(dict.fromkeys(VERBATIM.findall(source)))
            written = tokenizer.detokenize(tokenizer.encode_batch(words))  # "% 1", "jupyterlab"
            for word, form in zip(words, written, strict=True):
                if form != word:
                    whole = re.compile(rf"(?<!\w){re.escape(form)}(?!\w)", re.ASCII)
                    translations[i] = whole.sub(lambda _, word=word: word, translations[i])
        return translations

    def _write_ids(self, texts, max_length, num_beams, length_penalty):
        """Translates a batch, as a graph: strings (batch,) to ids (batch, max_length)."""
        source = self.preprocessor(texts)
        mask = source["encoder_padding_mask"]  # (batch, source)
        encoded = self.backbone.encode(source["encoder_token_ids"], mask)
        batch = ops.shape(encoded)[0]
        if num_beams > 1:  # the beams of a text stand together
            encoded, mask = ops.repeat(encoded, num_beams, axis=0), ops.repeat(mask, num_beams, 0)
        keys_and_values = self.backbone.keys_and_values(encoded)
        cache = self.backbone.start_cache(batch * num_beams, max_length)

        def next_logits(tokens, index, cache):
            x, cache = self.backbone.decode_step(
                tokens[:, None], index, cache, keys_and_values, mask
            )
            return self.backbone.logits(x[:, 0]), cache

        tokenizer = self.preprocessor.tokenizer
        arguments = {
            "next_logits": next_logits,
            "cache": cache,
            "batch_size": batch,
            "start_id": self.preprocessor.start_token_id,
            "end_id": tokenizer.end_token_id,
            "pad_id": tokenizer.pad_token_id,
            "max_length": max_length,
        }
        if num_beams == 1:
            return greedy_search(**arguments)
        ids, _ = beam_search(**arguments, num_beams=num_beams, length_penalty=length_penalty)
        return ids
