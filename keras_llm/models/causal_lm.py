"""A decoder as a language model: it learns from texts, measures texts and writes texts.

Notable:
- KerasHub's protocol of generation, so that its samplers choose the tokens: greedy, top-k, top-p,
  beams, contrastive, and those that a user writes;
- the past of a text is computed once, in pieces of a fixed size, and kept in a cache; so one
  compiled graph serves prompts of all lengths;
- on TensorFlow the loop is compiled by XLA, which makes a step several times faster;
- texts in `fit` become one row each, or with `packed` full rows, laid end to end; of dialogues it
  learns the replies;
- `serve` is the same loop from strings to strings, for exports;
- `perplexity` and `bits_per_byte` are those of every `LanguageModel`.
"""

import functools
import itertools

import keras
import keras_hub
import numpy as np
from keras import ops

from keras_llm.models.language_model import LanguageModel, blocks_of_texts
from keras_llm.models.sizes import check_vocabulary
from keras_llm.training import AdamW, GlobalMeanCrossentropy, TrainingMixin

PROMPT_PIECE = 32  # tokens of a prompt that are read at once
TOKENS_AT_ONCE = 1024  # judged at once; each takes a row as long as the vocabulary


class CausalLM(TrainingMixin):
    """Mixin for KerasHub's `CausalLM` of a model: predicts each token from those before it.

    A subclass has it before KerasHub's class in its bases, which knows how to go through KerasHub's
    backbone, and names ours as `backbone_cls`, a `Decoder`.

    Args:
        backbone: the decoder, ours or KerasHub's.
        preprocessor: `keras_hub.models.CausalLMPreprocessor` with the tokenizer, or None where
            inputs are token ids already.
        **kwargs: `name`, `compile` of `keras_hub.models.Task`.
    """

    def __init__(self, backbone, preprocessor=None, **kwargs):
        if preprocessor is not None:
            check_vocabulary(preprocessor.tokenizer, backbone)
            _check_length(backbone, preprocessor.sequence_length)

        # === Layers ===
        self.backbone = backbone
        self.preprocessor = preprocessor

        # === Functional Model ===
        outputs = self.logits(backbone(backbone.input))  # (batch, length, vocabulary)
        # Past the constructor of KerasHub's task, whose logits would be in half precision.
        keras_hub.models.CausalLM.__init__(self, inputs=backbone.input, outputs=outputs, **kwargs)

    @property
    def _is_ours(self):
        return isinstance(self.backbone, self.backbone_cls)

    @property
    def tokenizer(self):
        """The tokenizer of the preprocessor."""
        if self.preprocessor is None:
            raise ValueError(
                "Texts need a tokenizer, but the model has no preprocessor. Build it with "
                "preprocessor=keras_hub.models.CausalLMPreprocessor(tokenizer, sequence_length)."
            )
        return self.preprocessor.tokenizer

    def call(self, inputs, training=None):
        """Scores every token of the vocabulary as the one after each token."""
        if "segment_ids" in inputs and not self._is_ours:
            raise ValueError(
                f"{type(self.backbone).__module__}.{type(self.backbone).__name__} has no "
                "segment_ids: its attention crosses documents. Leave them out of the examples with "
                "across_documents=True, or use the backbone of keras_llm."
            )
        return self.logits(self.backbone(inputs, training=training))

    def logits(self, x):
        """Scores every token of the vocabulary with the embedding table.

        Args:
            x: float (..., hidden_dim), the backbone's output.

        Returns:
            float32 (..., vocabulary).
        """
        return ops.cast(self.backbone.token_embedding(x, reverse=True), "float32")

    # === Learning ===

    def compile(
        self, optimizer="auto", loss="auto", *, weighted_metrics="auto", sampler="top_k", **kwargs
    ):
        """Sets up training and generation.

        Args:
            optimizer: `keras.optimizers.Optimizer`; "auto" is `training.AdamW(5e-5)`, for
                fine-tuning. Training from nothing wants a schedule:
                `training.AdamW(training.WarmupLinearDecay(1e-3, total_steps))`.
            loss: as in `keras.Model.compile`; "auto" is the mean over the real tokens of all
                replicas.
            weighted_metrics: as in `keras.Model.compile`; "auto" is accuracy and perplexity.
            sampler: name or instance of a sampler of `keras_hub.samplers`, which chooses the tokens
                in `generate`: "greedy", "random", "top_k", "top_p", "beam", "contrastive".
            **kwargs: further arguments of `keras.Model.compile`. `jit_compile` is by default what
                is fastest: on a CPU, XLA for `generate`, but not for training; False is for both.
        """
        if weighted_metrics == "auto":
            weighted_metrics = [
                keras.metrics.SparseCategoricalAccuracy(name="accuracy"),
                keras_hub.metrics.Perplexity(from_logits=True, name="perplexity"),
            ]
        self._wish_for_xla = kwargs.get("jit_compile", "auto")
        super().compile(
            AdamW(5e-5) if optimizer == "auto" else optimizer,
            GlobalMeanCrossentropy() if loss == "auto" else loss,
            weighted_metrics=weighted_metrics,
            sampler=sampler,
            **kwargs,
        )

    def get_compile_config(self):
        """Returns the arguments of `compile`, which a file keeps; None without `compile`."""
        config = super().get_compile_config()
        return config and {
            **config,
            "jit_compile": self._wish_for_xla,
            "sampler": keras_hub.samplers.serialize(self.sampler),
        }

    def preprocess_samples(self, x, y=None, sample_weight=None):
        """Turns strings into token ids; KerasHub calls it on each batch. Ids stay as they are."""
        if isinstance(x, dict):
            return keras.utils.pack_x_y_sample_weight(x, y, sample_weight)
        return super().preprocess_samples(x, y, sample_weight)

    def fit(
        self,
        x=None,
        y=None,
        batch_size=None,
        epochs=1,
        validation_data=None,
        seed=0,
        packed=False,
        **kwargs,
    ):
        """Trains on texts, on dialogues, or on token ids.

        Args:
            x: list of str or a `keras_llm.corpora.Corpus`: each text is a row of a batch, of at
                most the preprocessor's `sequence_length` tokens; the rest is cut off. Or dialogues,
                list of lists of str, as `objectives.dialogue_examples` lays them. Or ids: a dataset
                of batches (x, y, sample_weight), as the `objectives` make it, or the backbone's
                dict.
            y: int32 (rows, length), the token after each one, beside a dict.
            batch_size: int, rows a step, of all replicas together; 32 by default. A dataset has its
                own.
            epochs: int, passes over the texts.
            validation_data: as `x`, which may be in a tuple alone or with `y`.
            seed: int, of the order of texts, anew each epoch.
            packed: bool. Lay texts end to end and cut them into full rows, as
                `objectives.causal_lm_examples` does: nothing is cut off, and nothing is padding.
            **kwargs: further arguments of `keras.Model.fit`.

        Returns:
            A `keras.callbacks.History`.

        Raises:
            ValueError: there are no texts, or no tokenizer for them; nothing is trained then.
            TypeError: a single string, or something else than strings among texts.
        """
        if isinstance(validation_data, tuple) and len(validation_data) == 1:
            (validation_data,) = validation_data
        if _are_texts(validation_data):
            validation_data, _ = self._batches(validation_data, batch_size, packed=packed)
        if _are_texts(x):
            x, steps = self._batches(x, batch_size, epochs, seed, packed)
            kwargs = {"steps_per_epoch": steps, **kwargs}
            batch_size = None
        if not isinstance(x, dict):
            kwargs["shuffle"] = False  # datasets come shuffled
        return super().fit(
            x, y, batch_size, epochs=epochs, validation_data=validation_data, **kwargs
        )

    def evaluate(self, x=None, y=None, batch_size=None, return_dict=True, packed=False, **kwargs):
        """Measures loss, accuracy and perplexity on texts, dialogues or ids.

        Args:
            x: as in `fit`.
            y: as in `fit`.
            batch_size: as in `fit`.
            return_dict: bool. False gives Keras' list without names.
            packed: bool, as in `fit`.
            **kwargs: further arguments of `keras.Model.evaluate`.

        Returns:
            A dict of `loss`, `accuracy` and `perplexity`.
        """
        if _are_texts(x):
            (x, _), batch_size = self._batches(x, batch_size, packed=packed), None
        return super().evaluate(x, y, batch_size, return_dict=return_dict, **kwargs)

    def num_rows(self, x, packed=False):
        """Counts the rows that `fit` makes: as many are a step as `batch_size` says.

        Args:
            x: texts or dialogues, as in `fit`.
            packed: bool, as in `fit`.

        Returns:
            Int.
        """
        if not (packed or _are_dialogues(x)):
            return sum(map(len, blocks_of_texts(x)))
        return int(self._examples(x)(batch_size=1, training=False).cardinality())

    def _batches(self, texts, batch_size, epochs=1, seed=None, packed=False):
        """Returns batches of texts, and how many an epoch has; shuffled where there is a seed."""
        import tensorflow as tf

        from keras_llm.objectives.streams import string_batches

        _ = self.tokenizer  # or it is an error, before anything is trained
        if not (packed or _are_dialogues(texts)):
            texts = tf.constant([text for block in blocks_of_texts(texts) for text in block])
            return string_batches(texts, batch_size, epochs, seed)
        rows = self.num_rows(texts, packed)
        batch_size = min(batch_size or 32, rows)
        learning = seed is not None
        order = {"seed": seed, "epochs": epochs} if learning else {}
        batches = self._examples(texts)(batch_size=batch_size, training=learning, **order)
        return batches, max(rows * epochs // batch_size // epochs, 1)

    def _examples(self, texts):
        """Returns the function that makes rows of dialogues, or full ones of texts."""
        from keras_llm import objectives

        make, options = objectives.dialogue_examples, {}
        if not _are_dialogues(texts):
            texts = [text for block in blocks_of_texts(texts) for text in block]
            # KerasHub's backbones cannot keep the documents of a row apart.
            make, options = objectives.causal_lm_examples, {"across_documents": not self._is_ours}
        length = self.preprocessor.sequence_length
        return functools.partial(make, texts, self.tokenizer, sequence_length=length, **options)

    # === Writing ===

    def generate(self, inputs, max_length=None, stop_token_ids="auto", strip_prompt=False, seed=0):
        """Goes on with texts, token by token, until the end token or the limit.

        Args:
            inputs: str, list of str or a `tf.data.Dataset` of batches of strings; without a
                preprocessor a dict of `token_ids` int32 (batch, max_length) and `padding_mask`
                bool (batch, max_length), with padding on either side.
            max_length: int, the most tokens of a text, prompt included; by default the
                preprocessor's `sequence_length`. Another length compiles another graph.
            stop_token_ids: list of int, the tokens that end a text; "auto" is the tokenizer's end
                token; None goes on until `max_length`.
            strip_prompt: bool, whether to return the continuations alone; of a dict, only with
                padding on the right.
            seed: int, another seed draws other texts. None goes on drawing where the last call
                stopped.

        Returns:
            Str or list of str. Without a preprocessor the dict, with the real tokens first.

        Raises:
            ValueError: `max_length` is more than the backbone has positions; there is no
                preprocessor and `stop_token_ids` is "auto".
        """
        if seed is not None:
            for state in self.sampler.variables:
                state.assign(ops.array([seed, 0], state.dtype))
        return super().generate(inputs, max_length, stop_token_ids, strip_prompt)

    def make_generate_function(self):
        """Returns `generate_step`, compiled."""
        on_tensorflow = keras.backend.backend() == "tensorflow"
        if self.generate_function is None and on_tensorflow and not self.run_eagerly:
            import tensorflow as tf

            # XLA cannot read variables that are mirrored on several devices.
            replicas = self.distribute_strategy.num_replicas_in_sync
            self.generate_function = tf.function(
                self.generate_step, jit_compile=bool(self._wish_for_xla) and replicas == 1
            )
        return super().make_generate_function()

    def generate_step(self, inputs, stop_token_ids=None, sampler=None):
        """Goes on with a batch of prompts, as a graph.

        Args:
            inputs: dict of `token_ids` int32 (batch, max_length) and `padding_mask` bool (batch,
                max_length), with padding on either side.
            stop_token_ids: list of int, or None.
            sampler: `keras_hub.samplers.Sampler`; by default that of `compile`.

        Returns:
            The dict of the texts, real tokens first: `padding_mask` is True at the prompt and what
            was written, the stop token included.
        """
        token_ids, is_prompt = _padding_last(inputs["token_ids"], inputs["padding_mask"])
        _check_length(self.backbone, token_ids.shape[1])
        stops = tuple(stop_token_ids or ())
        # To KerasHub's samplers, padding that is the stop token, as in GPT-2, would be a stop.
        padding = next(token for token in itertools.count() if token not in stops)
        token_ids = ops.where(is_prompt, token_ids, padding)
        # The first position at which a prompt has ended; where others have not, they are kept.
        # Where there is no prompt, nothing is left to write.
        lengths = ops.sum(ops.cast(is_prompt, "int32"), axis=1)  # (batch,)
        index = ops.maximum(ops.min(lengths, initial=token_ids.shape[1]), 1)
        hidden_states, cache = self._build_cache(token_ids, index)

        def next_token(token_ids, cache, index):
            rows = ops.shape(token_ids)[0]  # the batch, or several beginnings of each of its texts
            last = ops.slice(token_ids, (0, index - 1), (rows, 1))
            logits, hidden_states, cache = self.call_with_cache(last, cache, index - 1)
            logits = logits[:, 0]  # (rows, vocabulary)
            if stops:
                # What comes after a stop is not part of the text: beams must not weigh it.
                is_fixed = ops.repeat(is_prompt, rows // ops.shape(is_prompt)[0], axis=0)
                has_stopped = ops.any(_new_stops(token_ids, is_fixed, stops), axis=1)
                is_stop = ops.arange(logits.shape[-1]) == stops[0]
                certain = ops.cast(ops.where(is_stop, 0.0, -1e9), logits.dtype)
                logits = ops.where(has_stopped[:, None], certain, logits)
            return logits, hidden_states[:, 0], cache

        token_ids = (sampler or self.sampler)(
            next=next_token,
            prompt=token_ids,
            cache=cache,
            index=index,
            mask=is_prompt,
            stop_token_ids=stops or None,
            hidden_states=hidden_states,
            model=self,
        )
        new_stops = ops.cast(_new_stops(token_ids, is_prompt, stops), "int32")
        stops_before = ops.cumsum(new_stops, axis=1) - new_stops
        return {"token_ids": token_ids, "padding_mask": stops_before == 0}

    def serve(self, text):
        """What an export computes, as a graph: goes on with texts, by the sampler of `compile`.

        Args:
            text: string tensor (batch,).

        Returns:
            A dict of `text`, string (batch,): prompts and continuations.
        """
        return {"text": self._spelled(self._written(self.serve_inputs(text)))}

    def serve_inputs(self, text):
        """What the model reads of prompts, as a graph.

        Args:
            text: string tensor (batch,).

        Returns:
            A dict of `token_ids` int32 and `padding_mask` bool, both (batch, sequence_length): the
            start token and the prompt, cut so that a token can be written.
        """
        import tensorflow as tf

        tokenizer, length = self.tokenizer, self.preprocessor.sequence_length
        prompts = tokenizer.tokenize(text)[:, : length - 1]
        prompts = tf.concat([tf.fill([tf.shape(text)[0], 1], tokenizer.start_token_id), prompts], 1)
        token_ids = prompts.to_tensor(tokenizer.pad_token_id, shape=(None, length))
        return {
            "token_ids": token_ids,
            "padding_mask": tf.sequence_mask(prompts.row_lengths(), length),
        }

    def serve_tokens(self, inputs):
        """Goes on with token ids, as a graph.

        Args:
            inputs: the dict of `serve_inputs`.

        Returns:
            The same dict, with what was written.
        """
        return self._written(inputs)

    def serve_generate(self, prompt, sampler):
        """Goes on with texts by another sampler, as a graph.

        Args:
            prompt: string tensor (batch,).
            sampler: function of the prompts' numbers of tokens, int32 (batch,), that returns a
                `keras_hub.samplers.Sampler`.

        Returns:
            A dict of `text`, string (batch,), prompts and continuations, and `new_tokens`, int32
            (batch,), how many were written.
        """
        inputs = self.serve_inputs(prompt)
        before = ops.sum(ops.cast(inputs["padding_mask"], "int32"), axis=1)  # (batch,)
        written = self._written(inputs, sampler(before))
        after = ops.sum(ops.cast(self._is_text(written), "int32"), axis=1)
        # The start token is not part of the text.
        return {"text": self._spelled(written), "new_tokens": after - (before - 1)}

    def _written(self, inputs, sampler=None):
        return self.generate_step(inputs, [self.tokenizer.end_token_id], sampler)

    def _is_text(self, written):
        """Says which tokens are neither padding nor special, bool (batch, length)."""
        token_ids, is_text = written["token_ids"], written["padding_mask"]
        for token in self.tokenizer.special_token_ids:
            is_text = ops.logical_and(is_text, token_ids != token)
        return is_text

    def _spelled(self, written):
        import tensorflow as tf

        ids = tf.ragged.boolean_mask(written["token_ids"], self._is_text(written))
        return self.tokenizer.detokenize(ids)

    def call_with_cache(self, token_ids, cache, cache_update_index):
        """Reads some more tokens of a text, given the cache of those before.

        Args:
            token_ids: int32 (batch, length), usually of length 1.
            cache: what `_build_cache` or the last call returned.
            cache_update_index: int or int scalar tensor, position of the first of the tokens.

        Returns:
            The triple of logits (batch, length, vocabulary), the backbone's output (batch, length,
            hidden_dim) and the new cache.
        """
        if not self._is_ours:
            return super().call_with_cache(token_ids, cache, cache_update_index)
        x, cache = self.backbone.decode_step(token_ids, cache_update_index, cache)
        return self.logits(x), x, cache

    def _build_cache(self, token_ids, index):
        """Reads the first `index` of the tokens (batch, max_length).

        Returns the backbone's output at them, in a tensor (batch, max_length, hidden_dim), and the
        cache. Pieces have a fixed size, for graphs in which all sizes are; the last piece may begin
        with tokens of the one before, whose keys and values are written again.
        """
        if not self._is_ours:
            return super()._build_cache(token_ids)
        batch_size, max_length = ops.shape(token_ids)
        size = min(PROMPT_PIECE, max_length)
        shape = (batch_size, max_length, self.backbone.hidden_dim)

        def unread(start, hidden_states, cache):
            return start < index

        def read_on(start, hidden_states, cache):
            position = ops.minimum(start, max_length - size)
            piece = ops.slice(token_ids, (0, position), (batch_size, size))
            x, cache = self.backbone.decode_step(piece, position, cache)
            hidden_states = ops.slice_update(hidden_states, (0, position, 0), x)
            return start + size, hidden_states, cache

        start = ops.convert_to_tensor(0, "int32")
        hidden_states = ops.zeros(shape, self.backbone.compute_dtype)
        cache = self.backbone.start_cache(batch_size, max_length)
        _, hidden_states, cache = ops.while_loop(unread, read_on, (start, hidden_states, cache))
        return hidden_states, cache

    # === Judging ===

    # What follows from `log_probabilities` for every `LanguageModel`. It cannot be a base: Keras
    # tries to instantiate the bases of a functional model, and it is abstract.
    frame = LanguageModel.frame
    score = LanguageModel.score
    perplexity = LanguageModel.perplexity
    bits_per_byte = LanguageModel.bits_per_byte

    def log_probabilities(self, sequences):
        """Finds how probable each token of framed texts is after those before it.

        Where a text is longer than the model has positions, a token is judged by at least half as
        many tokens before it.

        Args:
            sequences: list of int arrays (tokens,), as `frame` makes them.

        Returns:
            List of float32 arrays (tokens - 1,): natural logarithms; of all but the start token.
        """
        limit = getattr(self.backbone, "max_sequence_length", None) or TOKENS_AT_ONCE
        windows = []  # (row, first prediction, first new prediction)
        for row, ids in enumerate(sequences):
            predictions, step = len(ids) - 1, (limit + 1) // 2
            for start in range(0, max(predictions - limit, 0) + step, step):
                windows.append((row, start, start + limit - step if start else 0))
        windows.sort(key=lambda window: -len(sequences[window[0]]))

        found = [np.zeros(len(ids) - 1, "float32") for ids in sequences]
        while windows:
            longest = min(len(sequences[windows[0][0]]) - 1, limit)
            batch = windows[: max(TOKENS_AT_ONCE // longest, 1)]
            del windows[: len(batch)]
            ids = np.zeros((len(batch), longest + 1), "int32")
            for line, (row, start, _) in zip(ids, batch, strict=True):
                piece = sequences[row][start : start + longest + 1]
                line[: len(piece)] = piece
            x = {"token_ids": ids[:, :-1], "padding_mask": np.ones_like(ids[:, :-1], bool)}
            logits = self.predict_on_batch(x)  # of padding too, which nothing before it looks at
            logits = logits[: len(ids)]  # every replica got the whole batch
            log_p = -ops.sparse_categorical_crossentropy(ids[:, 1:], logits, from_logits=True)
            log_p = ops.convert_to_numpy(log_p)  # (texts, longest)
            for line, (row, start, new) in zip(log_p, batch, strict=True):
                target = found[row][new : start + limit]
                target[:] = line[new - start :][: len(target)]
        return found


def _are_texts(x):
    return isinstance(x, (str, list)) or hasattr(x, "texts")


def _are_dialogues(x):
    return isinstance(x, list) and len(x) > 0 and isinstance(x[0], (list, tuple))


def _padding_last(token_ids, padding_mask):
    """Moves each row's real tokens to its beginning."""
    token_ids, padding_mask = ops.cast(token_ids, "int32"), ops.cast(padding_mask, "bool")
    length = ops.shape(token_ids)[1]
    first = ops.argmax(ops.cast(padding_mask, "int32"), axis=1)  # (batch,)
    places = (ops.arange(length) + ops.cast(first, "int32")[:, None]) % length
    return (
        ops.take_along_axis(token_ids, places, axis=1),
        ops.take_along_axis(padding_mask, places, axis=1),
    )


def _new_stops(token_ids, is_prompt, stops):
    """Says where a text has a stop token that the prompt has not: bool (batch, length)."""
    is_new_stop = ops.zeros_like(is_prompt)
    for stop in stops:
        is_new_stop = ops.logical_or(is_new_stop, token_ids == stop)
    return ops.logical_and(is_new_stop, ops.logical_not(is_prompt))


def _check_length(backbone, length):
    limit = getattr(backbone, "max_sequence_length", None)
    if limit is not None and length > limit:
        raise ValueError(
            f"Texts of up to {length} tokens are asked for, but the backbone has "
            f"max_sequence_length={limit} positions. Choose a smaller sequence_length of the "
            "preprocessor, or max_length."
        )
