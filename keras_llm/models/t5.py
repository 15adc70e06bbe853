"""T5 ("Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer", 2020).

Notable:
- an encoder-decoder to which every task is text in, text out;
- what tells it the order of tokens is a bias on the scores of self-attention, one value for each
  head and range of distances, held once for all layers of a stack;
- normalised before each sub-layer by the root mean square alone; no layer has a bias;
- scores are not divided by the root of the depth: the query's kernel starts smaller instead;
- version 1.1 has a gated feed-forward network and an output matrix of its own;
- same constructor, inputs and outputs as KerasHub's `T5Backbone`, which goes into our
  `T5Seq2SeqLM` as well.
"""

import keras
import keras_hub
from keras import ops

from keras_llm.layers import DecoderBlock, EncoderBlock, RelativePositionBias
from keras_llm.models.encoder_decoder import EncoderDecoder
from keras_llm.models.language_model import blocks_of_texts
from keras_llm.models.sizes import check_sizes, check_vocabulary
from keras_llm.training import AdamW, GlobalMeanCrossentropy, TrainingMixin

SIZES = {  # layers of each stack, heads, d_model, d_ff, d_kv
    ("tiny", "1.0"): (4, 4, 256, 1024, 64),
    ("mini", "1.0"): (4, 8, 384, 1536, 64),
    ("small", "1.0"): (6, 8, 512, 2048, 64),
    ("base", "1.0"): (12, 12, 768, 3072, 64),
    ("large", "1.0"): (24, 16, 1024, 4096, 64),
    ("xl", "1.0"): (24, 32, 1024, 16384, 128),
    ("small", "1.1"): (8, 6, 512, 1024, 64),
    ("base", "1.1"): (12, 12, 768, 2048, 64),
    ("large", "1.1"): (24, 16, 1024, 2816, 64),
    ("xl", "1.1"): (24, 32, 2048, 5120, 64),
}
VERSIONS = {
    "1.0": {},
    "1.1": {
        "activation": "gelu_approximate",
        "use_gated_activation": True,
        "tie_embedding_weights": False,
    },
}


def _fan_in(scale=1.0):
    """Normal values of variance `scale / inputs`: so the authors start every kernel."""
    return keras.initializers.VarianceScaling(scale, "fan_in", "untruncated_normal")


@keras.saving.register_keras_serializable(package="keras_llm")
class T5Backbone(EncoderDecoder):
    """Encoder and decoder of T5: from the ids of a source and a target to a vector for each token.

    "T5" (Raffel et al., 2020), section 2.1. The class methods `small` to `xl` build the sizes of
    section 3.7, each as version "1.0", the paper's, or "1.1", which the authors published later:
    gated ("GLU Variants Improve Transformer", Shazeer, 2020), with an output matrix of its own.

    Args:
        vocabulary_size: int, number of tokens.
        num_layers: int, number of encoder blocks, and of decoder blocks.
        num_heads: int, attention heads of each block.
        hidden_dim: int, features of each token (the paper's d_model).
        intermediate_dim: int, features inside the feed-forward networks (the paper's d_ff).
        key_value_dim: int, features of each head (the paper's d_kv); by default `hidden_dim /
            num_heads`.
        dropout: float in [0, 1), wherever the paper drops: at the input and output of each stack,
            on attention scores, on sub-layers and inside the feed-forward networks.
        activation: name or function inside the feed-forward networks: "relu" in version 1.0,
            "gelu_approximate" in 1.1.
        use_gated_activation: bool, whether the feed-forward networks are gated.
        layer_norm_epsilon: float, added to the mean square in normalisation.
        tie_embedding_weights: bool, whether the table of token embeddings is the output matrix
            too, on outputs divided by the root of `hidden_dim`.
        dtype: precision policy, such as "mixed_bfloat16"; by default Keras' own.
        **kwargs: `name`, `trainable` of `keras.Model`.

    Call arguments:
        inputs: dict of `encoder_token_ids` int32 (batch, source), `encoder_padding_mask` bool
            (batch, source), `decoder_token_ids` int32 (batch, target) and `decoder_padding_mask`
            bool (batch, target); masks are True at real tokens. The first token of a target is the
            padding token: T5 has no start token.

    Returns:
        A model whose output is a dict of `encoder_sequence_output` (batch, source, hidden_dim) and
        `decoder_sequence_output` (batch, target, hidden_dim).

    Raises:
        ValueError: a size is not a positive integer; without `key_value_dim`, `num_heads` does not
            divide `hidden_dim`.

    Example:
        >>> import numpy as np
        >>> model = T5Backbone(100, num_layers=1, num_heads=2, hidden_dim=8, intermediate_dim=32)
        >>> outputs = model({
        ...     "encoder_token_ids": np.array([[7, 8, 9, 1]]),
        ...     "encoder_padding_mask": np.ones((1, 4), bool),
        ...     "decoder_token_ids": np.array([[0, 11, 12]]),
        ...     "decoder_padding_mask": np.ones((1, 3), bool),
        ... })
        >>> tuple(model.logits(outputs["decoder_sequence_output"]).shape)
        (1, 3, 100)
    """

    def __init__(
        self,
        vocabulary_size,
        num_layers,
        num_heads,
        hidden_dim,
        intermediate_dim,
        key_value_dim=None,
        dropout=0.1,
        activation="relu",
        use_gated_activation=False,
        layer_norm_epsilon=1e-6,
        tie_embedding_weights=True,
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
        if key_value_dim is None:
            if hidden_dim % num_heads:
                raise ValueError(
                    f"num_heads={num_heads} does not divide hidden_dim={hidden_dim}: say with "
                    "key_value_dim how many features each head has."
                )
            key_value_dim = hidden_dim // num_heads
        check_sizes(key_value_dim=key_value_dim)

        # === Layers ===
        self.token_embedding = keras.layers.ReversibleEmbedding(
            vocabulary_size,
            hidden_dim,
            embeddings_initializer=keras.initializers.RandomNormal(stddev=1.0),
            dtype=dtype,
            name="token_embedding",
        )
        self.output_dense = None
        if not tie_embedding_weights:
            self.output_dense = keras.layers.Dense(
                vocabulary_size,
                use_bias=False,
                kernel_initializer=_fan_in(),
                dtype=dtype,
                name="output_dense",
            )
            self.output_dense.build((None, None, hidden_dim))
        self.embeddings_dropout = keras.layers.Dropout(
            dropout, dtype=dtype, name="embeddings_dropout"
        )
        self.output_dropout = keras.layers.Dropout(dropout, dtype=dtype, name="output_dropout")
        sizes = {
            "hidden_dim": hidden_dim,
            "num_heads": num_heads,
            "intermediate_dim": intermediate_dim,
            "dropout": dropout,
            "norm_first": True,
            "activation": activation,
            "layer_norm_epsilon": layer_norm_epsilon,
            "kernel_initializer": _fan_in(),
            "normalization": "rms",
            "use_bias": False,
            "gated": use_gated_activation,
            "attention": {
                "head_dim": key_value_dim,
                "scaled": False,
                "query_initializer": keras.initializers.serialize(_fan_in(1 / key_value_dim)),
            },
            "intermediate_dropout": dropout,
            "dtype": dtype,
        }
        self.encoder_layers = [
            EncoderBlock(**sizes, name=f"encoder_layer_{i}") for i in range(num_layers)
        ]
        self.decoder_layers = [
            DecoderBlock(**sizes, name=f"decoder_layer_{i}") for i in range(num_layers)
        ]
        for stack in ("encoder", "decoder"):
            bias = RelativePositionBias(
                num_heads,
                bidirectional=stack == "encoder",
                initializer=keras.initializers.RandomNormal(stddev=hidden_dim**-0.5),
                dtype=dtype,
                name=f"{stack}_position_bias",
            )
            norm = keras.layers.RMSNormalization(
                epsilon=layer_norm_epsilon, dtype=dtype, name=f"{stack}_norm"
            )
            setattr(self, f"{stack}_position_bias", bias)
            setattr(self, f"{stack}_norm", norm)

        # === Functional Model ===
        super().__init__(dtype=dtype, **kwargs)

        # === Config ===
        self.vocabulary_size = vocabulary_size
        self.num_layers = num_layers
        self.num_heads = num_heads
        self.hidden_dim = hidden_dim
        self.intermediate_dim = intermediate_dim
        self.key_value_dim = key_value_dim
        self.dropout = dropout
        self.activation = self.encoder_layers[0].feed_forward.activation
        self.use_gated_activation = use_gated_activation
        self.layer_norm_epsilon = layer_norm_epsilon
        self.tie_embedding_weights = tie_embedding_weights

    def encode(self, token_ids, padding_mask=None):
        """Encodes the source; see `EncoderDecoder.encode`."""
        return self.output_dropout(super().encode(token_ids, padding_mask))

    def decode(self, token_ids, encoder_output, padding_mask=None, encoder_padding_mask=None):
        """Decodes a whole target at once; see `EncoderDecoder.decode`."""
        x, alignments = super().decode(
            token_ids, encoder_output, padding_mask, encoder_padding_mask
        )
        return self.output_dropout(x), alignments

    def logits(self, x):
        """Scores every token of the vocabulary.

        Args:
            x: float (..., hidden_dim), the decoder's output.

        Returns:
            float32 (..., vocabulary).
        """
        if self.output_dense is not None:
            return ops.cast(self.output_dense(x), "float32")
        # The table's rows are of variance 1, those of an output matrix of 1 / hidden_dim.
        x = x * self.token_embedding.output_dim**-0.5
        return ops.cast(self.token_embedding(x, reverse=True), "float32")

    def _embed(self, token_ids, start_index=0):
        return self.embeddings_dropout(self.token_embedding(token_ids))

    def _encoder_bias(self, x):
        return self.encoder_position_bias(x)  # (1, heads, source, source)

    def _decoder_bias(self, x, key_length=None, start_index=0):
        return self.decoder_position_bias(x, key_length=key_length, start_index=start_index)

    def get_config(self):
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "vocabulary_size": self.vocabulary_size,
            "num_layers": self.num_layers,
            "num_heads": self.num_heads,
            "hidden_dim": self.hidden_dim,
            "intermediate_dim": self.intermediate_dim,
            "key_value_dim": self.key_value_dim,
            "dropout": self.dropout,
            "activation": keras.activations.serialize(self.activation),
            "use_gated_activation": self.use_gated_activation,
            "layer_norm_epsilon": self.layer_norm_epsilon,
            "tie_embedding_weights": self.tie_embedding_weights,
        }

    @classmethod
    def tiny(cls, vocabulary_size, **overrides):
        """Builds 256 features, 16 million weights ("Scale Efficiently", Tay et al., 2021)."""
        return cls._sized(vocabulary_size, "tiny", "1.0", overrides)

    @classmethod
    def mini(cls, vocabulary_size, **overrides):
        """Builds 384 features, 31 million weights, of the same paper."""
        return cls._sized(vocabulary_size, "mini", "1.0", overrides)

    @classmethod
    def small(cls, vocabulary_size, version="1.0", **overrides):
        """Builds 512 features: 60 million weights, 77 million in version 1.1."""
        return cls._sized(vocabulary_size, "small", version, overrides)

    @classmethod
    def base(cls, vocabulary_size, version="1.0", **overrides):
        """Builds 768 features: 220 million weights, 250 million in version 1.1."""
        return cls._sized(vocabulary_size, "base", version, overrides)

    @classmethod
    def large(cls, vocabulary_size, version="1.0", **overrides):
        """Builds 1024 features: 740 million weights, 780 million in version 1.1."""
        return cls._sized(vocabulary_size, "large", version, overrides)

    @classmethod
    def xl(cls, vocabulary_size, version="1.0", **overrides):
        """Builds the size called 3B or XL: 2.9 billion weights, 2.8 billion in version 1.1."""
        return cls._sized(vocabulary_size, "xl", version, overrides)

    @classmethod
    def _sized(cls, vocabulary_size, size, version, overrides):
        sizes = SIZES.get((size, version))
        if sizes is None:
            raise ValueError(f'version must be "1.0" or "1.1", not {version!r}.')
        names = ("num_layers", "num_heads", "hidden_dim", "intermediate_dim", "key_value_dim")
        sizes = {**dict(zip(names, sizes, strict=True)), **VERSIONS[version], **overrides}
        return cls(vocabulary_size, **sizes)


@keras.saving.register_keras_serializable(package="keras_llm")
class T5Seq2SeqLMPreprocessor(keras_hub.models.T5Seq2SeqLMPreprocessor):
    """Turns sources and targets into what T5 reads and is asked for.

    The source is its tokens and the end token. The decoder reads the padding token and the target,
    and is asked, at each position, for the token that comes next. It is KerasHub's preprocessor,
    whose saved configuration lacks the lengths.

    Args:
        tokenizer: `keras_llm.tokenizers.UnigramTokenizer` or another with an end and a padding
            token.
        encoder_sequence_length: int, tokens that every source is cut or padded to, with the end
            token.
        decoder_sequence_length: int, the same for targets, with the padding token that begins them.
        **kwargs: `name` of `keras.layers.Layer`.

    Call arguments:
        x: dict of `encoder_text` and `decoder_text`, strings (batch,).

    Returns:
        The dict of `encoder_token_ids`, `encoder_padding_mask`, `decoder_token_ids` and
        `decoder_padding_mask`; the ids asked for; their weights, False at padding.

    Example:
        >>> from keras_llm.tokenizers import UnigramTokenizer
        >>> tokenizer = UnigramTokenizer.train(["good day"] * 9, 10)
        >>> preprocess = T5Seq2SeqLMPreprocessor(tokenizer, 8, 8)
        >>> x, y, weights = preprocess({"encoder_text": ["good"], "decoder_text": ["day"]})
        >>> x["encoder_token_ids"].shape, y.shape
        (TensorShape([1, 8]), TensorShape([1, 8]))
    """

    backbone_cls = T5Backbone

    def get_config(self):
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "encoder_sequence_length": self.encoder_sequence_length,
            "decoder_sequence_length": self.decoder_sequence_length,
        }


@keras.saving.register_keras_serializable(package="keras_llm")
class T5Seq2SeqLM(TrainingMixin, keras_hub.models.T5Seq2SeqLM):
    """T5 with its output matrix: `fit` on pairs of texts, `generate` a text from a text.

    "T5" (Raffel et al., 2020), sections 2.4 and 3.1: the decoder is asked for each token of the
    target, given those before it. It is pretrained by span corruption, on what
    `objectives.span_corruption_examples` gives, and fine-tuned on strings.

    Args:
        backbone: `T5Backbone`, ours or KerasHub's.
        preprocessor: `T5Seq2SeqLMPreprocessor` with the tokenizer, or None where inputs are token
            ids already.
        **kwargs: `name`, `compile` of `keras_hub.models.Task`.

    Call arguments:
        inputs: the backbone's dict.

    Returns:
        A model whose output are logits (batch, target, vocabulary).

    Raises:
        ValueError: the tokenizer has more tokens than the backbone.

    Example:
        >>> from keras_llm.tokenizers import UnigramTokenizer
        >>> keras.utils.set_random_seed(0)
        >>> sources, targets = ["say yes", "say no"] * 16, ["yes", "no"] * 16
        >>> tokenizer = UnigramTokenizer.train(sources + targets, 11)
        >>> preprocessor = T5Seq2SeqLMPreprocessor(tokenizer, 8, 8)
        >>> model = T5Seq2SeqLM(T5Backbone(16, 1, 2, 32, 64, dropout=0.0), preprocessor)
        >>> model.compile(AdamW(1e-2))
        >>> history = model.fit(sources, targets, batch_size=8, epochs=8, verbose=0)
        >>> model.generate("say no")
        'no'
    """

    backbone_cls = T5Backbone
    preprocessor_cls = T5Seq2SeqLMPreprocessor

    def __init__(self, backbone, preprocessor=None, **kwargs):
        if preprocessor is not None:
            check_vocabulary(preprocessor.tokenizer, backbone)
        super().__init__(backbone, preprocessor, **kwargs)

    def compile(
        self, optimizer="auto", loss="auto", *, weighted_metrics="auto", sampler="greedy", **kwargs
    ):
        """Sets up training and generation.

        Args:
            optimizer: `keras.optimizers.Optimizer`; "auto" is `training.AdamW(1e-4)`. The authors'
                Adafactor needs less memory and a schedule of its own; trained from nothing, small
                models want a higher rate: `training.AdamW(training.WarmupLinearDecay(2e-3, 500))`.
            loss: as in `keras.Model.compile`; "auto" is the mean over the tokens of all replicas.
            weighted_metrics: as in `keras.Model.compile`; "auto" is the accuracy of the next token,
                given the right ones before it.
            sampler: name of a sampler or `keras_hub.samplers.Sampler`, for `generate`. The authors'
                decode greedily (section 3.1.2).
            **kwargs: further arguments of `keras.Model.compile`.
        """
        if weighted_metrics == "auto":
            weighted_metrics = [keras.metrics.SparseCategoricalAccuracy(name="accuracy")]
        super().compile(
            AdamW() if optimizer == "auto" else optimizer,
            GlobalMeanCrossentropy() if loss == "auto" else loss,
            weighted_metrics=weighted_metrics,
            sampler=sampler,
            **kwargs,
        )

    def fit(
        self, x=None, y=None, batch_size=None, epochs=1, validation_data=None, seed=0, **kwargs
    ):
        """Trains on pairs of texts, or on token ids.

        Args:
            x: list of str, the sources, beside `y`; or a dict of the lists `encoder_text` and
                `decoder_text`. Or ids: a dataset of batches (x, y, sample_weight), as
                `objectives.span_corruption_examples` makes it, or the backbone's dict.
            y: list of str, the targets; or int32 (rows, target), the tokens asked for, beside ids.
            batch_size: int, rows a step, of all replicas together; 32 by default. A dataset has its
                own.
            epochs: int, passes over the texts.
            validation_data: pair of lists, or ids as a dataset or a tuple.
            seed: int, of the order of texts, anew each epoch.
            **kwargs: further arguments of `keras.Model.fit`.

        Returns:
            A `keras.callbacks.History`.

        Raises:
            ValueError: there are no texts, no targets or not as many targets as sources, or no
                tokenizer for them; nothing is trained then.
            TypeError: a single string, or something else than strings among texts.
        """
        texts = self._texts(x, y)
        if texts is not None:
            from keras_llm.objectives.streams import string_batches

            x, kwargs["steps_per_epoch"] = string_batches(texts, batch_size, epochs, seed)
            y = batch_size = None
        if not isinstance(x, dict):
            kwargs["shuffle"] = False  # datasets come shuffled
        return super().fit(
            x, y, batch_size, epochs=epochs, validation_data=validation_data, **kwargs
        )

    def _texts(self, x, y):
        """Returns sources and targets as tensors of strings, or None where these are ids."""
        if isinstance(x, (str, list)):
            x = {"encoder_text": x, "decoder_text": y}
        if not (isinstance(x, dict) and "encoder_text" in x):
            return None
        sources, targets = x["encoder_text"], x.get("decoder_text")
        if targets is None or len(sources) != len(targets):
            raise ValueError(
                "Each source needs a target: `fit(sources, targets)`. Got "
                f"{len(sources)} sources and {0 if targets is None else len(targets)} targets."
            )
        if self.preprocessor is None:
            raise ValueError(
                "Texts need a tokenizer, but the model has no preprocessor. Build it with "
                "preprocessor=T5Seq2SeqLMPreprocessor(tokenizer)."
            )
        import tensorflow as tf

        return {
            name: tf.constant([text for block in blocks_of_texts(texts) for text in block])
            for name, texts in (("encoder_text", sources), ("decoder_text", targets))
        }

    def preprocess_samples(self, x, y=None, sample_weight=None):
        """Turns strings into ids; KerasHub calls it on each batch. Ids stay as they are.

        Args:
            x: strings (batch,), the sources; or a dict of `encoder_text` and `decoder_text`, both
                strings (batch,); or the backbone's dict.
            y: strings (batch,), the targets, beside sources; or ids, beside ids.
            sample_weight: weights of ids.

        Returns:
            The backbone's dict, the ids asked for and their weights.
        """
        if isinstance(x, dict) and "encoder_token_ids" in x:
            return keras.utils.pack_x_y_sample_weight(x, y, sample_weight)
        if y is not None:
            x = {"encoder_text": x, "decoder_text": y}
        return super().preprocess_samples(x)

    # How KerasHub's `generate` reaches into the model. Its own backbone has no such methods; the
    # class above knows how to go through it.

    @property
    def _is_ours(self):
        return isinstance(self.backbone, self.backbone_cls)

    def _logits(self, hidden_states):
        if not self._is_ours:
            return super()._logits(hidden_states)
        return self.backbone.logits(hidden_states)

    def call_encoder(self, token_ids, padding_mask):
        """Encodes the source: int (batch, source) to (batch, source, hidden_dim)."""
        if not self._is_ours:
            return super().call_encoder(token_ids, padding_mask)
        return self.backbone.encode(token_ids, padding_mask)

    def call_decoder_with_cache(
        self,
        encoder_hidden_states,
        encoder_padding_mask,
        decoder_token_ids,
        self_attention_cache,
        self_attention_cache_update_index,
        cross_attention_cache,
        cross_attention_cache_update_index,
    ):
        """Decodes some more tokens of the targets, given the cache of those before.

        Args:
            encoder_hidden_states: float (batch, source, hidden_dim).
            encoder_padding_mask: bool (batch, source), True at real tokens.
            decoder_token_ids: int32 (batch, length).
            self_attention_cache: what `EncoderDecoder.start_cache` or the last call returned.
            self_attention_cache_update_index: int or int scalar tensor, position of the first of
                the tokens.
            cross_attention_cache: what the last call returned; looked at where the next argument is
                None.
            cross_attention_cache_update_index: 0 to project the source, None where it has been.

        Returns:
            The logits (batch, length, vocabulary), the hidden states (batch, length, hidden_dim)
            and both caches.
        """
        if not self._is_ours:
            return super().call_decoder_with_cache(
                encoder_hidden_states,
                encoder_padding_mask,
                decoder_token_ids,
                self_attention_cache,
                self_attention_cache_update_index,
                cross_attention_cache,
                cross_attention_cache_update_index,
            )
        if cross_attention_cache_update_index is not None:
            cross_attention_cache = self.backbone.keys_and_values(encoder_hidden_states)
        x, self_attention_cache = self.backbone.decode_step(
            decoder_token_ids,
            self_attention_cache_update_index,
            self_attention_cache,
            cross_attention_cache,
            encoder_padding_mask,
        )
        return self._logits(x), x, self_attention_cache, cross_attention_cache

    def _initialize_cache(self, encoder_token_ids, decoder_token_ids):
        if not self._is_ours:
            return super()._initialize_cache(encoder_token_ids, decoder_token_ids)
        batch, max_length = ops.shape(decoder_token_ids)
        return self.backbone.start_cache(batch, max_length), None
