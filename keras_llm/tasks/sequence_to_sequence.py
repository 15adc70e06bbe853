"""What translation and summarization share: strings in, strings out, by an encoder-decoder."""

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from keras_llm.generation import beam_search, greedy_search, without_repeats
from keras_llm.models.encoder_decoder import EncoderDecoder
from keras_llm.models.sizes import check_vocabulary
from keras_llm.tasks.preprocessing import SequenceToSequencePreprocessor
from keras_llm.tasks.text_task import TextTask, as_strings, batches_of_like_length
from keras_llm.training import AdamW, GlobalMeanCrossentropy, WarmupInverseSquareRootDecay


class SequenceToSequence(TextTask):
    """A task that learns from pairs of strings and writes a string from a string.

    Sources and targets share one tokenizer. A subclass says with `target_name` and `targets_name`
    what it writes; the first names the output of an export.

    Args:
        backbone: an `EncoderDecoder`: `keras_llm.models.Transformer` or `T5Backbone`.
        tokenizer: a tokenizer of `keras_llm.tokenizers` that can be trained on both sides.
        sequence_length: int, the most tokens of a source, with the end token; the rest of a longer
            text is cut off at its end.
        target_length: int, the same for targets; None: as for sources.
        prefix: str, stands before each source, such as "summarize: ": T5 tells its tasks by it.
        num_beams: int. 1 appends the most probable token until the end (greedy search); more
            keep as many beginnings (beam search): often better, and slower.
        length_penalty: float, of beam search; more makes what is written longer.
        no_repeat_ngram: int, 2 at least: so many tokens in a row are not written twice; None
            allows it.
        **kwargs: `name`, `compile` of `keras_hub.models.Task`.

    Raises:
        ValueError: the tokenizer has more tokens than the backbone; a length is less than 2.
        TypeError: the backbone is no `EncoderDecoder`.

    Example:
        >>> from keras_llm.tasks import Summarizer, Translator
        >>> issubclass(Summarizer, SequenceToSequence), issubclass(Translator, SequenceToSequence)
        (True, True)
    """

    def __init__(
        self,
        backbone,
        tokenizer,
        sequence_length=128,
        target_length=None,
        prefix="",
        num_beams=1,
        length_penalty=0.6,
        no_repeat_ngram=None,
        **kwargs,
    ):
        if not isinstance(backbone, EncoderDecoder):
            raise TypeError(
                f"{type(self).__name__} needs a keras_llm.models.Transformer or T5Backbone; got "
                f"{type(backbone).__module__}.{type(backbone).__name__}. KerasHub's "
                "T5Backbone goes into keras_llm.models.T5Seq2SeqLM."
            )
        check_vocabulary(tokenizer, backbone)
        target_length = sequence_length if target_length is None else target_length
        for name, length in (("sequence", sequence_length), ("target", target_length)):
            if length < 2:
                raise ValueError(f"{name}_length={length} must be at least 2.")

        # === Layers ===
        self.backbone = backbone
        self.preprocessor = SequenceToSequencePreprocessor(
            tokenizer, sequence_length, target_length, prefix
        )

        # === Functional Model ===
        outputs = backbone(backbone.input)
        logits = backbone.logits(outputs["decoder_sequence_output"])  # (batch, target, vocabulary)
        super().__init__(inputs=backbone.input, outputs=logits, **kwargs)

        # === Config ===
        self.sequence_length = sequence_length
        self.target_length = target_length
        self.prefix = prefix
        self.num_beams = num_beams
        self.length_penalty = length_penalty
        self.no_repeat_ngram = no_repeat_ngram

        self._write = tf.function(self._write_texts, autograph=False, reduce_retracing=True)

    def get_config(self):
        """Returns the constructor's arguments."""
        return {
            "backbone": keras.saving.serialize_keras_object(self.backbone),
            "tokenizer": keras.saving.serialize_keras_object(self.preprocessor.tokenizer),
            "sequence_length": self.sequence_length,
            "target_length": self.target_length,
            "prefix": self.prefix,
            "num_beams": self.num_beams,
            "length_penalty": self.length_penalty,
            "no_repeat_ngram": self.no_repeat_ngram,
            "name": self.name,
        }

    def compile(self, optimizer="auto", loss="auto", *, weighted_metrics="auto", **kwargs):
        """Sets up training; by default as in "Attention Is All You Need", section 5.

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
        sources, targets = columns[:2]
        lengths = (
            self.preprocessor.sources(sources).row_lengths()
            + self.preprocessor.targets(targets).row_lengths()
        )  # (pairs,)
        return batches_of_like_length(columns, lengths.numpy(), batch_size, epochs, seed)

    def write(
        self,
        texts,
        num_beams=None,
        length_penalty=None,
        max_length=None,
        batch_size=64,
        verbose="auto",
        no_repeat_ngram=None,
    ):
        """Writes a text from each text.

        Args:
            texts: list of str.
            num_beams: int, as in the class; by default the model's, as for the others.
            length_penalty: float, as in the class.
            max_length: int, the most tokens to write; by default `target_length`.
            batch_size: int, texts at once.
            verbose: 1 for a progress bar, 0 for none, "auto" for one where there are several
                batches.
            no_repeat_ngram: int, as in the class; 0 allows repeats.

        Returns:
            List of str, one a text. What is written from a text does not depend on the others.

        Raises:
            ValueError: no texts; `max_length` or `num_beams` is less than 1, `length_penalty` less
                than 0, or `no_repeat_ngram` 1 or less than 0.
            TypeError: a single string, or a list of something else than strings.
        """
        texts = np.array(as_strings(texts, "texts"), dtype=object)
        options = {
            "max_length": self.target_length if max_length is None else max_length,
            "num_beams": self.num_beams if num_beams is None else num_beams,
            "length_penalty": self.length_penalty if length_penalty is None else length_penalty,
            "no_repeat_ngram": (
                self.no_repeat_ngram if no_repeat_ngram is None else no_repeat_ngram
            ),
        }
        by_length = np.argsort([len(text) for text in texts], kind="stable")
        batches = np.array_split(by_length, np.arange(batch_size, len(texts), batch_size))
        verbose = int(len(batches) > 1) if verbose == "auto" else verbose
        progress = keras.utils.Progbar(len(batches), unit_name="batch", verbose=verbose)
        written = np.empty(len(texts), dtype=object)
        for rows in batches:
            ids = self._write(tf.constant(texts[rows]), **options)
            written[rows] = self._spelled(ids.numpy(), texts[rows])
            progress.add(1)
        return written.tolist()

    def predict(self, x, batch_size=64, verbose="auto", **kwargs):
        """The same as `write`, under Keras' name."""
        return self.write(x, batch_size=batch_size, verbose=verbose, **kwargs)

    def serve(self, text):
        """What an export computes, as a graph: it writes as the model is set to.

        Args:
            text: string tensor (batch,).

        Returns:
            A dict of `target_name`, such as `translation`, string (batch,).
        """
        ids = self.serve_tokens(self.serve_inputs(text))["token_ids"]
        return {self.target_name: self.preprocessor.tokenizer.detokenize(ids)}

    def serve_inputs(self, text):
        """What the encoder reads: string tensor (batch,) to the preprocessor's dict."""
        return self.preprocessor(text)

    def serve_tokens(self, inputs):
        """Writes the tokens of targets, as the model is set to.

        Args:
            inputs: the dict of `serve_inputs`.

        Returns:
            A dict of `token_ids`, int32 (batch, target_length), with the end token.
        """
        ids = self._write_ids(
            inputs, self.target_length, self.num_beams, self.length_penalty, self.no_repeat_ngram
        )
        return {"token_ids": ids}

    def serve_generate(self, prompt, sampler):
        """Writes texts from others by another sampler, as a graph, without beams.

        Args:
            prompt: string tensor (batch,).
            sampler: function of how many tokens there are already, int32 (batch,), none, that
                returns a `RequestSampler` of `serving`.

        Returns:
            A dict of `text`, string (batch,), and `new_tokens`, int32 (batch,), how many were
            written; `target_length` at most.
        """
        source = self.serve_inputs(prompt)
        adjust = sampler(tf.zeros_like(source["encoder_token_ids"][:, 0])).adjusted
        ids = self._write_ids(source, self.target_length, 1, 0.0, self.no_repeat_ngram, adjust)
        tokenizer = self.preprocessor.tokenizer
        ended = tf.cumsum(tf.cast(ids == tokenizer.end_token_id, tf.int32), axis=1)
        new_tokens = tf.reduce_sum(tf.cast(ended == 0, tf.int32), axis=1)
        return {"text": tokenizer.detokenize(ids), "new_tokens": new_tokens}

    def _spelled(self, ids, sources):
        """Writes ids as texts; a subclass may look at the sources for it."""
        return self.preprocessor.tokenizer.detokenize(ids)

    def _write_texts(self, texts, *options, **named):
        return self._write_ids(self.serve_inputs(texts), *options, **named)

    def _write_ids(
        self, source, max_length, num_beams, length_penalty, no_repeat_ngram=None, adjust=None
    ):
        """Writes a batch, as a graph: the encoder's dict to ids (batch, max_length).

        `adjust` is a function of logits and the place of the token before; it returns logits.
        """
        mask = source["encoder_padding_mask"]  # (batch, source)
        encoded = self.backbone.encode(source["encoder_token_ids"], mask)
        batch = ops.shape(encoded)[0]
        if num_beams > 1:  # the beams of a text stand together
            encoded, mask = ops.repeat(encoded, num_beams, axis=0), ops.repeat(mask, num_beams, 0)
        keys_and_values = self.backbone.keys_and_values(encoded)
        rows = batch * num_beams
        cache = self.backbone.start_cache(rows, max_length)
        tokenizer = self.preprocessor.tokenizer
        known = tokenizer.vocabulary_size()  # T5's table has more rows than there are tokens

        def next_logits(tokens, index, cache):
            x, cache = self.backbone.decode_step(
                tokens[:, None], index, cache, keys_and_values, mask
            )
            logits = self.backbone.logits(x[:, 0])[:, :known]
            return logits if adjust is None else adjust(logits, index), cache

        if no_repeat_ngram:
            next_logits, cache = without_repeats(
                next_logits, cache, rows, max_length, no_repeat_ngram
            )
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
