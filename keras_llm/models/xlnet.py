"""XLNet, the generalized autoregressive model (Yang et al., 2019, https://arxiv.org/abs/1906.08237).

Notable:
- it predicts tokens one after the other, in another order for each text: so it learns from both
  sides, as BERT does, and what it predicts depends on what it predicted before;
- two streams that share all weights: one knows the tokens, the other only where they stand;
- positions are relative, segments are "same" or "different": any length, any number of segments;
- it remembers: `encode` takes and gives the hidden states of what was read before;
- same constructor, inputs and output as KerasHub's `XLNetBackbone`, which has no memory and no
  query stream.
"""

import keras
import keras_hub
from keras import ops

from keras_llm.layers import LanguageModelHead, RelativeContext, TwoStreamBlock
from keras_llm.layers.attention import as_boolean, causal_mask
from keras_llm.models.sizes import check_sizes
from keras_llm.training import AdamW, GlobalMeanCrossentropy, TrainingMixin

LAYER_NORM_EPSILON = 1e-12  # as in the authors' code


def _kernel_initializer():
    return keras.initializers.TruncatedNormal(stddev=0.02)


@keras.saving.register_keras_serializable(package="keras_llm")
class XLNetBackbone(keras_hub.models.Backbone):
    """The content stream of XLNet: from token ids to one vector for each token.

    `base` and `large` build it in the sizes of "XLNet" (Yang et al., 2019), sections 3.4 and 3.1,
    `tiny` in that of a BERT of this name.

    Args:
        vocabulary_size: int, number of tokens.
        num_layers: int, number of blocks.
        num_heads: int, attention heads of each block; divides `hidden_dim`.
        hidden_dim: int, features of each token.
        intermediate_dim: int, features inside the feed-forward networks.
        dropout: float in [0, 1), for embeddings, attention scores and sub-layers.
        activation: name or function, inside the feed-forward networks; "gelu" is exact.
        dtype: precision policy, such as "mixed_bfloat16"; by default Keras' own.
        **kwargs: `name`, `trainable` of `keras.Model`.

    Call arguments:
        inputs: dict of `token_ids` int32 (batch, length), `segment_ids` int32 (batch, length) and
            `padding_mask` bool (batch, length), True at real tokens. Padding may stand on the
            left, as XLNet's own does, or on the right.

    Returns:
        A model whose output is the float (batch, length, hidden_dim) sequence.

    Raises:
        ValueError: a size is not a positive integer; `num_heads` does not divide `hidden_dim`.

    Example:
        >>> import numpy as np
        >>> backbone = XLNetBackbone.tiny(vocabulary_size=100)
        >>> x = {
        ...     "token_ids": np.array([[0, 7, 8, 9, 4, 3]]),
        ...     "segment_ids": np.array([[3, 0, 0, 0, 0, 2]]),
        ...     "padding_mask": np.array([[False, True, True, True, True, True]]),
        ... }
        >>> tuple(backbone(x).shape)
        (1, 6, 128)
    """

    def __init__(
        self,
        vocabulary_size,
        num_layers,
        num_heads,
        hidden_dim,
        intermediate_dim,
        dropout=0.1,
        activation="gelu",
        dtype=None,
        **kwargs,
    ):
        check_sizes(
            vocabulary_size=vocabulary_size,
            num_layers=num_layers,
            num_heads=num_heads,
            hidden_dim=hidden_dim,
            intermediate_dim=intermediate_dim,
        )

        # === Layers ===
        self.token_embedding = keras.layers.ReversibleEmbedding(
            vocabulary_size,
            hidden_dim,
            embeddings_initializer=_kernel_initializer(),
            dtype=dtype,
            name="token_embedding",
        )
        self.relative_context = RelativeContext(hidden_dim, dtype=dtype, name="relative_context")
        self.dropout_layer = keras.layers.Dropout(dropout, dtype=dtype, name="dropout")
        self.transformer_layers = [
            TwoStreamBlock(
                hidden_dim,
                num_heads,
                intermediate_dim,
                dropout=dropout,
                intermediate_dropout=dropout,
                activation=activation,
                layer_norm_epsilon=LAYER_NORM_EPSILON,
                kernel_initializer=_kernel_initializer(),
                dtype=dtype,
                name=f"transformer_layer_{i}",
            )
            for i in range(num_layers)
        ]

        # === Functional Model ===
        inputs = {
            "token_ids": keras.Input((None,), dtype="int32", name="token_ids"),
            "segment_ids": keras.Input((None,), dtype="int32", name="segment_ids"),
            "padding_mask": keras.Input((None,), dtype="bool", name="padding_mask"),
        }
        sequence, _ = self.run(inputs)
        super().__init__(inputs=inputs, outputs=sequence, dtype=dtype, **kwargs)

        # === Config ===
        self.vocabulary_size = vocabulary_size
        self.num_layers = num_layers
        self.num_heads = num_heads
        self.hidden_dim = hidden_dim
        self.intermediate_dim = intermediate_dim
        self.dropout = dropout
        self.activation = self.transformer_layers[0].feed_forward.activation

    def run(self, inputs, query_stream=None, memory=None):
        """Puts both streams, or content alone, through the blocks.

        Args:
            inputs: dict as in a call; with `attention_mask` bool (batch, length, length), True
                where position i may attend to j, or without: all may. Its diagonal does not count:
                content sees itself, a query does not. With `mask_positions` int (batch,
                predictions) where there is a query stream.
            query_stream: `QueryStream`, or None for the content stream alone.
            memory: as in `encode`.

        Returns:
            The streams (batch, length + predictions, hidden_dim), content first, and the list of
            what each block got.
        """
        context = self.relative_context(
            inputs["padding_mask"],
            inputs["segment_ids"],
            attention_mask=inputs.get("attention_mask"),
            query_positions=inputs["mask_positions"] if query_stream else None,
            memory=memory,
        )
        context["relative_encoding"] = self.dropout_layer(context["relative_encoding"])
        x = self.token_embedding(inputs["token_ids"])
        if query_stream:
            x = query_stream(x, inputs["mask_positions"])
        x = self.dropout_layer(x)
        states = []
        for i, layer in enumerate(self.transformer_layers):
            states.append(x)
            x = layer(x, context, None if memory is None else memory["states"][:, :, i])
        return self.dropout_layer(x), states

    def encode(self, inputs, memory=None, memory_length=None):
        """Reads a piece of a text with what was read before in mind.

        "Transformer-XL" (Dai et al., 2019), section 3.2. Every position may attend to the whole
        memory. Pieces that are read one after the other get the vectors that a single pass over
        the text gives, with a mask in which a piece sees neither those after it nor what was no
        longer in its memory.

        Args:
            inputs: dict as in a call; with or without `attention_mask` bool (batch, length,
                length), True where position i may attend to j: the lower triangle for reading left
                to right. Without, all may attend to all.
            memory: dict of `states` float (batch, memory, num_layers, hidden_dim), `padding_mask`
                bool and `segment_ids` int (batch, memory), as an earlier call returned it; None at
                the beginning of a text.
            memory_length: int, the most positions to remember; by default all.

        Returns:
            The pair of the vectors (batch, length, hidden_dim) and the memory for the next piece.

        Example:
            >>> import numpy as np
            >>> backbone, memory = XLNetBackbone.tiny(vocabulary_size=100), None
            >>> for ids in np.array([[[5, 6, 7]], [[8, 9, 3]]]):
            ...     real = np.ones_like(ids, bool)
            ...     x = {"token_ids": ids, "segment_ids": 0 * ids, "padding_mask": real}
            ...     vectors, memory = backbone.encode(x, memory, memory_length=4)
            >>> tuple(vectors.shape), tuple(memory["states"].shape)
            ((1, 3, 128), (1, 4, 2, 128))
        """
        sequence, states = self.run(inputs, memory=memory)
        return sequence, self.remember(inputs, states, memory, memory_length)

    def remember(self, inputs, states, memory=None, memory_length=None):
        """Puts what was read into the memory, as constants: no gradient flows into the past.

        Args:
            inputs: dict of `padding_mask` and `segment_ids`, of what was read.
            states: list, the second result of `run`.
            memory: as in `encode`, what was remembered before.
            memory_length: int, the most positions to remember; by default all.

        Returns:
            The new memory.
        """
        length = ops.shape(inputs["padding_mask"])[1]
        new = {
            "states": ops.stop_gradient(ops.stack([x[:, :length] for x in states], axis=2)),
            "padding_mask": as_boolean(inputs["padding_mask"]),
            "segment_ids": ops.convert_to_tensor(inputs["segment_ids"]),
        }
        if memory is not None:
            new = {name: ops.concatenate([memory[name], x], axis=1) for name, x in new.items()}
        if memory_length is not None:
            check_sizes(memory_length=memory_length)
            new = {name: x[:, -memory_length:] for name, x in new.items()}
        return new

    def get_config(self):
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "vocabulary_size": self.vocabulary_size,
            "num_layers": self.num_layers,
            "num_heads": self.num_heads,
            "hidden_dim": self.hidden_dim,
            "intermediate_dim": self.intermediate_dim,
            "dropout": self.dropout,
            "activation": keras.activations.serialize(self.activation),
        }

    @classmethod
    def tiny(cls, vocabulary_size, **overrides):
        """Builds 2 layers of 128 features: 0.5 million weights and 128 for each token."""
        return cls._sized(vocabulary_size, 2, 128, overrides)

    @classmethod
    def base(cls, vocabulary_size, **overrides):
        """Builds 12 layers of 768 features (Yang et al., 2019, section 3.4): 117 million."""
        return cls._sized(vocabulary_size, 12, 768, overrides)

    @classmethod
    def large(cls, vocabulary_size, **overrides):
        """Builds 24 layers of 1024 features (Yang et al., 2019, section 3.1): 361 million."""
        return cls._sized(vocabulary_size, 24, 1024, overrides)

    @classmethod
    def _sized(cls, vocabulary_size, num_layers, hidden_dim, overrides):
        """Fills in what all published sizes share: heads of 64 features, a factor of 4."""
        sizes = {
            "num_layers": num_layers,
            "num_heads": hidden_dim // 64,
            "hidden_dim": hidden_dim,
            "intermediate_dim": 4 * hidden_dim,
        }
        return cls(vocabulary_size=vocabulary_size, **{**sizes, **overrides})


@keras.saving.register_keras_serializable(package="keras_llm")
class QueryStream(keras.layers.Layer):
    """Begins the query stream: one learned vector at each position to predict.

    "XLNet" (Yang et al., 2019), section 2.3: `g = w`.

    Args:
        initializer: initializer of the vector.
        **kwargs: `name`, `dtype`, ... of `keras.layers.Layer`.

    Call arguments:
        content: float (batch, length, hidden_dim).
        mask_positions: int (batch, predictions).

    Returns:
        Tensor (batch, length + predictions, hidden_dim): content, followed by the query stream.

    Example:
        >>> streams = QueryStream()(ops.ones((1, 5, 8)), mask_positions=ops.array([[1, 3]]))
        >>> tuple(streams.shape)
        (1, 7, 8)
    """

    def __init__(self, initializer="glorot_uniform", **kwargs):
        super().__init__(**kwargs)
        self.initializer = keras.initializers.get(initializer)

    def build(self, content_shape):
        """Creates the vector."""
        self.embedding = self.add_weight(
            name="embedding", shape=(content_shape[-1],), initializer=self.initializer
        )
        self.built = True

    def call(self, content, mask_positions):
        """Appends the query stream to `content`."""
        shape = (*ops.shape(mask_positions), content.shape[-1])
        query = ops.broadcast_to(ops.convert_to_tensor(self.embedding), shape)
        return ops.concatenate([content, query], axis=1)

    def get_config(self):
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "initializer": keras.initializers.serialize(self.initializer),
        }


@keras.saving.register_keras_serializable(package="keras_llm")
class QueryStreamHead(LanguageModelHead):
    """Guesses tokens from the query stream, which stands behind the content stream.

    "XLNet" (Yang et al., 2019), section 2.3, equation 4.

    Args:
        token_embedding: as in `LanguageModelHead`.
        **kwargs: `name`, `dtype`, ... of `keras.layers.Layer`.

    Call arguments:
        streams: float (batch, length + predictions, hidden_dim).
        mask_positions: int (batch, predictions); only the shape counts.

    Returns:
        Logits, float32 (batch, predictions, vocabulary).

    Example:
        >>> embedding = keras.layers.ReversibleEmbedding(input_dim=100, output_dim=8)
        >>> embedding.build()
        >>> logits = QueryStreamHead(embedding)(ops.ones((1, 7, 8)), ops.array([[1, 3]]))
        >>> tuple(logits.shape)
        (1, 2, 100)
    """

    def call(self, streams, mask_positions):
        """Returns the logits of every token at the positions to predict."""
        length = ops.shape(streams)[1] - ops.shape(mask_positions)[1]
        return super().call(streams[:, length:])


@keras.saving.register_keras_serializable(package="keras_llm")
class XLNetForPretraining(TrainingMixin, keras_hub.models.Task):
    """XLNet with the query stream and the head that it is pretrained with.

    "XLNet" (Yang et al., 2019), sections 2.2 and 2.3. `objectives.permutation_lm_examples` makes
    what it is fitted on.

    Args:
        backbone: `XLNetBackbone`.
        preprocessor: what turns the raw input of `fit` into the dict below, or None where it is
            one already.
        **kwargs: `name`, `compile` of `keras_hub.models.Task`.

    Call arguments:
        inputs: the backbone's dict, with `attention_mask` bool (batch, length, length), True where
            position i may attend to j, which is where j comes before i in the order of
            factorization (the inverse of the authors' `perm_mask`; its diagonal does not count: a
            token never sees itself when it is predicted), and `mask_positions` int32
            (batch, predictions), of the tokens to predict.

    Returns:
        A model whose output is the float32 (batch, predictions, vocabulary) logits.

    Example:
        >>> import numpy as np
        >>> model = XLNetForPretraining(XLNetBackbone.tiny(vocabulary_size=100))
        >>> logits = model({
        ...     "token_ids": np.array([[7, 8, 9, 4, 3]]),
        ...     "segment_ids": np.array([[0, 0, 0, 0, 2]]),
        ...     "padding_mask": np.ones((1, 5), dtype=bool),
        ...     "attention_mask": np.tri(5, dtype=bool)[None],
        ...     "mask_positions": np.array([[1, 2]]),
        ... })
        >>> tuple(logits.shape)
        (1, 2, 100)
    """

    backbone_cls = XLNetBackbone

    def __init__(self, backbone, preprocessor=None, **kwargs):
        # === Layers ===
        self.backbone = backbone
        self.preprocessor = preprocessor
        self.query_stream = QueryStream(
            initializer=_kernel_initializer(), dtype=backbone.dtype_policy, name="query_stream"
        )
        self.head = QueryStreamHead(
            backbone.token_embedding, dtype=backbone.dtype_policy, name="head"
        )

        # === Functional Model ===
        inputs = {
            **backbone.input,
            "attention_mask": keras.Input((None, None), dtype="bool", name="attention_mask"),
            "mask_positions": keras.Input((None,), dtype="int32", name="mask_positions"),
        }
        logits, _ = self._run(inputs)
        super().__init__(inputs=inputs, outputs=logits, **kwargs)

    def _run(self, inputs, memory=None):
        """Returns the logits and what the blocks got."""
        streams, states = self.backbone.run(inputs, self.query_stream, memory)
        return self.head(streams, inputs["mask_positions"]), states

    def call_with_memory(self, inputs, memory=None, memory_length=None):
        """Predicts tokens of a piece of a text with what was read before in mind.

        Args:
            inputs: dict as in a call.
            memory: as in `XLNetBackbone.encode`.
            memory_length: int, the most positions to remember; by default all.

        Returns:
            The pair of the logits and the memory for the next piece.
        """
        logits, states = self._run(inputs, memory)
        return logits, self.backbone.remember(inputs, states, memory, memory_length)

    def log_probabilities(self, token_ids, piece_length=512, memory_length=None):
        """Finds how probable each token of long texts is after all those before it.

        The order of factorization is that of the text, which is read in pieces, left to right, with
        a memory of those before. With the memory of a whole text, the result does not depend on how
        it is cut.

        Args:
            token_ids: int (batch, length), without padding.
            piece_length: int, tokens that are read at once.
            memory_length: int, the most positions to remember; by default all.

        Returns:
            Tensor float32 (batch, length), natural logarithms.

        Raises:
            ValueError: `piece_length` or `memory_length` is not a positive integer.

        Example:
            >>> model = XLNetForPretraining(XLNetBackbone.tiny(vocabulary_size=100))
            >>> log_p = model.log_probabilities([[5, 6, 7, 8, 9]], piece_length=2)
            >>> tuple(log_p.shape)
            (1, 5)
        """
        check_sizes(piece_length=piece_length)
        token_ids = ops.convert_to_tensor(token_ids, "int32")
        memory, log_probabilities = None, []
        for start in range(0, token_ids.shape[1], piece_length):
            ids = token_ids[:, start : start + piece_length]
            batch, length = ids.shape
            positions = ops.tile(ops.arange(length)[None], (batch, 1))
            inputs = {**_left_to_right(ids), "mask_positions": positions}
            logits, memory = self.call_with_memory(inputs, memory, memory_length)
            log_p = ops.take_along_axis(ops.log_softmax(logits), ids[:, :, None], axis=2)
            log_probabilities.append(log_p[:, :, 0])
        return ops.concatenate(log_probabilities, axis=1)

    def generate(
        self,
        token_ids,
        max_length,
        sampler="top_k",
        memory_length=512,
        piece_length=512,
        stop_token_ids=None,
        seed=0,
    ):
        """Goes on with texts, however long: each token is predicted with those before in memory.

        The order of factorization is that of the text, as in `log_probabilities`. A step reads the
        last token and asks for the next; what was read before is in the memory ("Transformer-XL",
        Dai et al., 2019, section 3.2), whose size does not grow: the time of a step stays the same.

        Args:
            token_ids: int (batch, length), the prompts, without padding.
            max_length: int, tokens of a text, prompt included.
            sampler: name or instance of a sampler of `keras_hub.samplers`.
            memory_length: int, the most positions to remember before the last token.
            piece_length: int, tokens of a prompt that are read at once.
            stop_token_ids: list of int, the tokens after which a text is not gone on with once all
                have one; None goes on until `max_length`.
            seed: int, another seed draws other texts.

        Returns:
            Tensor int32 (batch, max_length). What stands after a stop token means nothing.

        Raises:
            ValueError: there is no prompt, it is longer than `max_length`, or a length is not a
                positive integer.

        Example:
            >>> model = XLNetForPretraining(XLNetBackbone.tiny(vocabulary_size=100))
            >>> texts = model.generate([[5, 6, 7]], max_length=8, sampler="greedy", memory_length=4)
            >>> tuple(texts.shape)
            (1, 8)
        """
        check_sizes(memory_length=memory_length, piece_length=piece_length, max_length=max_length)
        prompts = ops.convert_to_tensor(token_ids, "int32")
        batch, length = prompts.shape
        if not 1 <= length <= max_length:
            raise ValueError(f"A prompt must have 1 to {max_length} tokens; got {length}.")
        sampler = keras_hub.samplers.get(sampler)
        for state in sampler.variables:
            state.assign(ops.array([seed, 0], state.dtype))

        # A memory of one size, of which nothing is real yet: the loop needs fixed shapes.
        backbone, shape = self.backbone, (batch, memory_length)
        memory = {
            "states": ops.zeros(
                (*shape, backbone.num_layers, backbone.hidden_dim), backbone.compute_dtype
            ),
            "padding_mask": ops.zeros(shape, "bool"),
            "segment_ids": ops.zeros(shape, "int32"),
        }
        for start in range(0, length - 1, piece_length):
            ids = prompts[:, start : min(start + piece_length, length - 1)]
            _, memory = backbone.encode(_left_to_right(ids), memory, memory_length)

        def next_logits(texts, memory, index):
            last = ops.slice(texts, (0, index - 1), (batch, 1))
            # The second is the place of the next token; no stream sees what stands there.
            inputs = _left_to_right(ops.concatenate([last, last], axis=1))
            inputs["mask_positions"] = ops.ones((batch, 1), "int32")
            logits, states = self._run(inputs, memory)
            read = {name: inputs[name][:, :1] for name in ("padding_mask", "segment_ids")}
            return logits[:, 0], None, backbone.remember(read, states, memory, memory_length)

        return sampler(
            next_logits,
            ops.pad(prompts, ((0, 0), (0, max_length - length))),
            cache=memory,
            index=length,
            mask=ops.broadcast_to(ops.arange(max_length) < length, (batch, max_length)),
            stop_token_ids=stop_token_ids,
            model=self,
        )

    def compile(self, optimizer="auto", loss="auto", *, weighted_metrics="auto", **kwargs):
        """Sets up training; by default with the mean loss over the predicted tokens.

        Args:
            optimizer: `keras.optimizers.Optimizer`; "auto" is `training.AdamW()`. Pretraining
                wants a schedule: `training.AdamW(training.WarmupLinearDecay(1e-4, 10_000))`.
            loss: as in `keras.Model.compile`; "auto" is the mean over the predicted tokens of all
                replicas.
            weighted_metrics: as in `keras.Model.compile`; "auto" is the accuracy.
            **kwargs: further arguments of `keras.Model.compile`.
        """
        loss = GlobalMeanCrossentropy() if loss == "auto" else loss
        if weighted_metrics == "auto":
            weighted_metrics = [keras.metrics.SparseCategoricalAccuracy(name="accuracy")]
        optimizer = AdamW() if optimizer == "auto" else optimizer
        super().compile(optimizer, loss, weighted_metrics=weighted_metrics, **kwargs)


def _left_to_right(token_ids):
    """Makes the inputs of a piece of a text whose order of factorization is its own."""
    batch, length = token_ids.shape
    return {
        "token_ids": token_ids,
        "segment_ids": ops.zeros_like(token_ids),
        "padding_mask": ops.ones_like(token_ids, "bool"),
        "attention_mask": ops.tile(causal_mask(length, length)[None], (batch, 1, 1)),
    }
