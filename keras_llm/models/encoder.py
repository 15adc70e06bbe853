"""What BERT and its relatives share: a sum of embeddings, normalised, then encoder blocks.

Notable: a relative is what it does otherwise. Without `num_segments` there are no segments, with an
`embedding_dim` of its own the embeddings are projected, and how positions are counted is a method.
"""

import keras
import keras_hub

from keras_llm.layers import EncoderBlock, MaskedLMHead, PositionEmbedding
from keras_llm.models.sizes import check_sizes
from keras_llm.training import AdamW, GlobalMeanCrossentropy, TrainingMixin

LAYER_NORM_EPSILON = 1e-12  # as in the code of BERT's authors


def kernel_initializer():
    """Draws weights as BERT does: normal, of standard deviation 0.02, cut off at twice that.

    Returns:
        `keras.initializers.TruncatedNormal`.
    """
    return keras.initializers.TruncatedNormal(stddev=0.02)


def sequence_output(encoded):
    """Returns one vector for each token from a backbone's output.

    Args:
        encoded: tensor (batch, length, hidden_dim), or a dict with it as `sequence_output`.

    Returns:
        Tensor (batch, length, hidden_dim).

    Example:
        >>> sequence_output({"sequence_output": 1, "pooled_output": 2})
        1
    """
    return encoded["sequence_output"] if isinstance(encoded, dict) else encoded


def without_pooler(weights, backbone):
    """Leaves out the weights that only the vector of the whole text depends on.

    They have no gradient in a task that reads the vectors of the tokens.

    Args:
        weights: list of variables.
        backbone: an encoder, ours or KerasHub's, with or without a pooler.

    Returns:
        List of variables.

    Example:
        >>> from keras_llm.models import BertBackbone
        >>> backbone = BertBackbone.tiny(20)
        >>> len(backbone.weights) - len(without_pooler(backbone.weights, backbone))  # kernel, bias
        2
    """
    pooler = getattr(backbone, "pooled_dense", None)
    unread = {id(weight) for weight in pooler.weights} if pooler is not None else ()
    return [weight for weight in weights if id(weight) not in unread]


class EncoderBackbone(keras_hub.models.Backbone):
    """An encoder that sees both directions, normalised after each sum (post-norm).

    Args:
        vocabulary_size: int, number of tokens.
        num_layers: int, number of encoder blocks.
        num_heads: int, attention heads of each block; divides `hidden_dim`.
        hidden_dim: int, features of each token.
        intermediate_dim: int, features inside the feed-forward networks.
        dropout: float in [0, 1), for embeddings, attention scores and sub-layers.
        max_sequence_length: int, number of positions; longer input is an error.
        num_segments: int, number of segments; None: the model knows none.
        embedding_dim: int, features of the embeddings; by default `hidden_dim`.
        pooled: bool, whether there is a dense layer on the first token. The output is a dict then.
        layer_norm_epsilon: float, added to the variance in layer normalisation.
        dtype: precision policy, such as "mixed_bfloat16"; by default Keras' own.
        **kwargs: `name`, `trainable` of `keras.Model`.
    """

    def __init__(
        self,
        vocabulary_size,
        num_layers,
        num_heads,
        hidden_dim,
        intermediate_dim,
        dropout=0.1,
        max_sequence_length=512,
        num_segments=None,
        embedding_dim=None,
        pooled=False,
        layer_norm_epsilon=LAYER_NORM_EPSILON,
        dtype=None,
        **kwargs,
    ):
        embedding_dim = hidden_dim if embedding_dim is None else embedding_dim
        check_sizes(
            vocabulary_size=vocabulary_size,
            num_layers=num_layers,
            num_heads=num_heads,
            hidden_dim=hidden_dim,
            intermediate_dim=intermediate_dim,
            max_sequence_length=max_sequence_length,
            embedding_dim=embedding_dim,
        )

        # === Layers ===
        self.token_embedding = keras.layers.ReversibleEmbedding(
            vocabulary_size,
            embedding_dim,
            embeddings_initializer=kernel_initializer(),
            dtype=dtype,
            name="token_embedding",
        )
        self.position_embedding = self._position_embedding(max_sequence_length, dtype)
        if num_segments is not None:
            self.segment_embedding = keras.layers.Embedding(
                num_segments,
                embedding_dim,
                embeddings_initializer=kernel_initializer(),
                dtype=dtype,
                name="segment_embedding",
            )
        self.embeddings_add = keras.layers.Add(dtype=dtype, name="embeddings_add")
        self.embeddings_norm = keras.layers.LayerNormalization(
            epsilon=layer_norm_epsilon, dtype=dtype, name="embeddings_norm"
        )
        self.embeddings_dropout = keras.layers.Dropout(
            dropout, dtype=dtype, name="embeddings_dropout"
        )
        if embedding_dim != hidden_dim:
            self.embeddings_projection = keras.layers.Dense(
                hidden_dim,
                kernel_initializer=kernel_initializer(),
                dtype=dtype,
                name="embeddings_projection",
            )
        self.transformer_layers = [
            EncoderBlock(
                hidden_dim,
                num_heads,
                intermediate_dim,
                dropout=dropout,
                layer_norm_epsilon=layer_norm_epsilon,
                kernel_initializer=kernel_initializer(),
                dtype=dtype,
                name=f"transformer_layer_{i}",
            )
            for i in range(num_layers)
        ]
        if pooled:
            self.pooled_dense = keras.layers.Dense(
                hidden_dim,
                activation="tanh",
                kernel_initializer=kernel_initializer(),
                dtype=dtype,
                name="pooled_dense",
            )

        # === Functional Model ===
        inputs = {
            "token_ids": keras.Input((None,), dtype="int32", name="token_ids"),
            "padding_mask": keras.Input((None,), dtype="bool", name="padding_mask"),
        }
        if num_segments is not None:
            inputs["segment_ids"] = keras.Input((None,), dtype="int32", name="segment_ids")

        x = self.embed(**inputs)  # (batch, length, embedding_dim)
        if embedding_dim != hidden_dim:
            x = self.embeddings_projection(x)
        for layer in self.transformer_layers:
            x = layer(x, padding_mask=inputs["padding_mask"])  # (batch, length, hidden_dim)
        outputs = x
        if pooled:
            outputs = {"sequence_output": x, "pooled_output": self.pooled_dense(x[:, 0])}
        super().__init__(inputs=inputs, outputs=outputs, dtype=dtype, **kwargs)

        # === Config ===
        self.vocabulary_size = vocabulary_size
        self.num_layers = num_layers
        self.num_heads = num_heads
        self.hidden_dim = hidden_dim
        self.intermediate_dim = intermediate_dim
        self.dropout = dropout
        self.max_sequence_length = max_sequence_length
        self.num_segments = num_segments
        self.embedding_dim = embedding_dim
        self.layer_norm_epsilon = layer_norm_epsilon

    def embed(self, token_ids, padding_mask, segment_ids=None):
        """Sums up the embeddings of tokens, positions and segments, and normalises the sum.

        Args:
            token_ids: int32 (batch, length).
            padding_mask: bool (batch, length), True at real tokens.
            segment_ids: int32 (batch, length), where the model knows segments.

        Returns:
            Tensor (batch, length, embedding_dim).
        """
        tokens = self.token_embedding(token_ids)
        summands = [tokens, self._positions(tokens, padding_mask)]
        if segment_ids is not None:
            summands.append(self.segment_embedding(segment_ids))
        return self.embeddings_dropout(self.embeddings_norm(self.embeddings_add(summands)))

    def _position_embedding(self, max_sequence_length, dtype):
        return PositionEmbedding(
            max_sequence_length,
            initializer=kernel_initializer(),
            dtype=dtype,
            name="position_embedding",
        )

    def _positions(self, tokens, padding_mask):
        return self.position_embedding(tokens)

    def get_config(self):
        """Returns the constructor's arguments, those that all relatives have."""
        return {
            **super().get_config(),
            "vocabulary_size": self.vocabulary_size,
            "num_layers": self.num_layers,
            "num_heads": self.num_heads,
            "hidden_dim": self.hidden_dim,
            "intermediate_dim": self.intermediate_dim,
            "dropout": self.dropout,
            "max_sequence_length": self.max_sequence_length,
        }

    @classmethod
    def _sized(cls, vocabulary_size, num_layers, hidden_dim, overrides):
        """Fills in what most published sizes share: heads of 64 features, a factor of 4."""
        sizes = {
            "num_layers": num_layers,
            "num_heads": hidden_dim // 64,
            "hidden_dim": hidden_dim,
            "intermediate_dim": 4 * hidden_dim,
        }
        return cls(vocabulary_size=vocabulary_size, **{**sizes, **overrides})


class EncoderMaskedLM(TrainingMixin, keras_hub.models.Task):
    """Guesses the masked tokens, from both sides; a subclass names the backbone.

    "BERT" (Devlin et al., 2018), section 3.1, task 1.

    Args:
        backbone: an encoder, ours or KerasHub's.
        preprocessor: what turns the raw input of `fit` into the dict below, or None where it is
            one already, as `objectives.masked_lm_examples` gives it.
        **kwargs: `name`, `compile` of `keras_hub.models.Task`.

    Call arguments:
        inputs: the backbone's dict, with `mask_positions` int32 (batch, predictions).

    Returns:
        A model whose output is the logits, float32 (batch, predictions, vocabulary).
    """

    def __init__(self, backbone, preprocessor=None, **kwargs):
        # === Layers ===
        self.backbone = backbone
        self.preprocessor = preprocessor
        self.masked_lm_head = MaskedLMHead(
            backbone.token_embedding,
            layer_norm_epsilon=getattr(backbone, "layer_norm_epsilon", LAYER_NORM_EPSILON),
            kernel_initializer=kernel_initializer(),
            dtype=backbone.dtype_policy,
            name="masked_lm_head",
        )

        # === Functional Model ===
        mask_positions = keras.Input((None,), dtype="int32", name="mask_positions")
        x = sequence_output(backbone(backbone.input))  # (batch, length, hidden_dim)
        super().__init__(
            inputs={**backbone.input, "mask_positions": mask_positions},
            outputs=self.masked_lm_head(x, mask_positions),
            **kwargs,
        )

    def compile(self, optimizer="auto", loss="auto", *, weighted_metrics="auto", **kwargs):
        """Sets up training; by default with cross-entropy and accuracy.

        Args:
            optimizer: `keras.optimizers.Optimizer`; "auto" is `training.AdamW()`. Pretraining
                wants a schedule: `training.AdamW(training.WarmupLinearDecay(1e-4, 10_000))`.
            loss: as in `keras.Model.compile`; "auto" is the mean over the masked tokens of all
                replicas.
            weighted_metrics: as in `keras.Model.compile`; "auto" is the accuracy.
            **kwargs: further arguments of `keras.Model.compile`.
        """
        if weighted_metrics == "auto":
            weighted_metrics = [keras.metrics.SparseCategoricalAccuracy(name="accuracy")]
        super().compile(
            AdamW() if optimizer == "auto" else optimizer,
            GlobalMeanCrossentropy() if loss == "auto" else loss,
            weighted_metrics=weighted_metrics,
            **kwargs,
        )
