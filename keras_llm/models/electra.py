"""ELECTRA ("ELECTRA: Pre-training Text Encoders as Discriminators", Clark et al., 2020).

Notable:
- BERT's encoder that learns to say of every token whether it is the original: a small generator has
  put its guesses in the place of some (section 2);
- the embeddings may have fewer features than the layers; a dense layer is between (section 3.2);
- same constructor and inputs as KerasHub's `ElectraBackbone`, without the pooled output, which
  ELECTRA was not trained with.
"""

import keras
import keras_hub
from keras import ops

from keras_llm.layers import EncoderBlock, MaskedLMHead, ReplacedTokenHead
from keras_llm.models.encoder import (
    EncoderBackbone,
    EncoderMaskedLM,
    kernel_initializer,
    sequence_output,
)
from keras_llm.models.sizes import check_sizes
from keras_llm.training import AdamW, GlobalMeanCrossentropy, TrainingMixin


@keras.saving.register_keras_serializable(package="keras_llm")
class ElectraBackbone(EncoderBackbone):
    """The encoder of ELECTRA: from token ids to one vector for each token.

    `small` to `large` build it in the sizes of "ELECTRA" (Clark et al., 2020), table 6.

    Args:
        vocabulary_size: int, number of tokens.
        num_layers: int, number of encoder blocks.
        num_heads: int, attention heads of each block; divides `hidden_dim`.
        hidden_dim: int, features of each token.
        embedding_dim: int, features of the embeddings.
        intermediate_dim: int, features inside the feed-forward networks.
        dropout: float in [0, 1), for embeddings, attention scores and sub-layers.
        max_sequence_length: int, number of positions; longer input is an error.
        num_segments: int, number of segments.
        dtype: precision policy, such as "mixed_bfloat16"; by default Keras' own.
        **kwargs: `name`, `trainable` of `keras.Model`.

    Call arguments:
        inputs: dict of `token_ids` int32 (batch, length), `segment_ids` int32 (batch, length) and
            `padding_mask` bool (batch, length), True at real tokens.

    Returns:
        A model whose output is a tensor (batch, length, hidden_dim).

    Raises:
        ValueError: a size is not a positive integer; `num_heads` does not divide `hidden_dim`;
            the input is longer than `max_sequence_length`.

    Example:
        >>> import numpy as np
        >>> backbone = ElectraBackbone(100, 2, 2, 8, 4, 32, max_sequence_length=16)
        >>> x = {"token_ids": np.array([[2, 7, 8, 3]]), "padding_mask": np.ones((1, 4), bool)}
        >>> tuple(backbone(x | {"segment_ids": np.zeros((1, 4), int)}).shape)
        (1, 4, 8)
    """

    def __init__(
        self,
        vocabulary_size,
        num_layers,
        num_heads,
        hidden_dim,
        embedding_dim,
        intermediate_dim,
        dropout=0.1,
        max_sequence_length=512,
        num_segments=2,
        dtype=None,
        **kwargs,
    ):
        check_sizes(embedding_dim=embedding_dim, num_segments=num_segments)
        super().__init__(
            vocabulary_size,
            num_layers,
            num_heads,
            hidden_dim,
            intermediate_dim,
            dropout=dropout,
            max_sequence_length=max_sequence_length,
            num_segments=num_segments,
            embedding_dim=embedding_dim,
            dtype=dtype,
            **kwargs,
        )

    def get_config(self):
        """Returns the constructor's arguments."""
        own = {"embedding_dim": self.embedding_dim, "num_segments": self.num_segments}
        return {**super().get_config(), **own}

    @classmethod
    def small(cls, vocabulary_size=30522, **overrides):
        """Builds 12 layers of 256 features, embeddings of 128: 14 million weights."""
        return cls._sized(vocabulary_size, 12, 256, {"embedding_dim": 128, **overrides})

    @classmethod
    def base(cls, vocabulary_size=30522, **overrides):
        """Builds 12 layers of 768 features: 109 million weights."""
        return cls._sized(vocabulary_size, 12, 768, {"embedding_dim": 768, **overrides})

    @classmethod
    def large(cls, vocabulary_size=30522, **overrides):
        """Builds 24 layers of 1024 features: 334 million weights."""
        return cls._sized(vocabulary_size, 24, 1024, {"embedding_dim": 1024, **overrides})


@keras.saving.register_keras_serializable(package="keras_llm")
class ElectraGenerator(EncoderMaskedLM):
    """The generator as it is published: an encoder that guesses masked tokens.

    "ELECTRA" (Clark et al., 2020), section 2.

    Args:
        backbone: `ElectraBackbone`.
        preprocessor: what turns the raw input of `fit` into the dict below, or None where it is
            one already.
        **kwargs: `name`, `compile` of `keras_hub.models.Task`.

    Call arguments:
        inputs: the backbone's dict, with `mask_positions` int32 (batch, predictions).

    Returns:
        A model whose output is the logits, float32 (batch, predictions, vocabulary).

    Example:
        >>> import numpy as np
        >>> model = ElectraGenerator(ElectraBackbone(100, 2, 2, 8, 4, 32))
        >>> logits = model({
        ...     "token_ids": np.array([[2, 7, 4, 9, 3]]),
        ...     "segment_ids": np.zeros((1, 5), dtype=int),
        ...     "padding_mask": np.ones((1, 5), dtype=bool),
        ...     "mask_positions": np.array([[2]]),
        ... })
        >>> tuple(logits.shape)
        (1, 1, 100)
    """

    backbone_cls = ElectraBackbone


@keras.saving.register_keras_serializable(package="keras_llm")
class ElectraDiscriminator(TrainingMixin, keras_hub.models.Task):
    """The discriminator: says of each token whether it was put there by the generator.

    "ELECTRA" (Clark et al., 2020), section 2. `ElectraForPretraining` trains it.

    Args:
        backbone: `ElectraBackbone`.
        preprocessor: what turns the raw input of `fit` into the backbone's dict, or None where it
            is one already.
        **kwargs: `name`, `compile` of `keras_hub.models.Task`.

    Call arguments:
        inputs: the backbone's dict.

    Returns:
        A model whose output is the logits, float32 (batch, length); positive: replaced.

    Example:
        >>> import numpy as np
        >>> model = ElectraDiscriminator(ElectraBackbone(100, 2, 2, 8, 4, 32))
        >>> x = {"token_ids": np.array([[2, 7, 8, 3]]), "padding_mask": np.ones((1, 4), bool)}
        >>> tuple(model(x | {"segment_ids": np.zeros((1, 4), int)}).shape)
        (1, 4)
    """

    backbone_cls = ElectraBackbone

    def __init__(self, backbone, preprocessor=None, **kwargs):
        # === Layers ===
        self.backbone = backbone
        self.preprocessor = preprocessor
        self.replaced_token_head = ReplacedTokenHead(
            kernel_initializer=kernel_initializer(),
            dtype=backbone.dtype_policy,
            name="replaced_token_head",
        )

        # === Functional Model ===
        logits = self.replaced_token_head(sequence_output(backbone(backbone.input)))
        super().__init__(inputs=backbone.input, outputs=logits, **kwargs)


@keras.saving.register_keras_serializable(package="keras_llm")
class ElectraForPretraining(TrainingMixin, keras_hub.models.Task):
    """Generator and discriminator as they are trained: both at once, on one set of embeddings.

    "ELECTRA" (Clark et al., 2020), sections 2 and 3.2. The generator guesses masked tokens; of its
    guesses one is drawn for each and put into the text; the discriminator finds them. No gradient
    goes through the draw. The loss is the generator's plus 50 times the discriminator's. Fit it on
    `objectives.masked_lm_examples` or another objective with masks; a token that was masked as
    itself or as another one counts as masked here too.

    Args:
        backbone: `ElectraBackbone`, the discriminator's: what is kept.
        preprocessor: what turns the raw input of `fit` into the dict below, or None where it is
            one already.
        generator_size: float, the generator's features and heads as a share of the backbone's.
        discriminator_weight: float, of the discriminator's loss.
        seed: int, of the draws.
        **kwargs: `name`, `compile` of `keras_hub.models.Task`.

    Call arguments:
        inputs: the backbone's dict, with `mask_positions` int32 (batch, predictions).

    Returns:
        A model whose output is the generator's logits, float32 (batch, predictions, vocabulary).
        `discriminator` is the `ElectraDiscriminator` that is trained beside.

    Example:
        >>> import numpy as np
        >>> model = ElectraForPretraining(ElectraBackbone(100, 2, 4, 16, 8, 32))
        >>> x = {
        ...     "token_ids": np.array([[2, 7, 4, 9, 3]]),
        ...     "segment_ids": np.zeros((1, 5), dtype=int),
        ...     "padding_mask": np.ones((1, 5), dtype=bool),
        ...     "mask_positions": np.array([[2]]),
        ... }
        >>> history = model.fit(x, np.array([[8]]), verbose=0)
        >>> sorted(history.history)
        ['accuracy', 'loss', 'replaced_accuracy']
    """

    backbone_cls = ElectraBackbone

    def __init__(
        self,
        backbone,
        preprocessor=None,
        generator_size=0.25,
        discriminator_weight=50.0,
        seed=0,
        **kwargs,
    ):
        # === Layers ===
        self.backbone = backbone
        self.preprocessor = preprocessor
        num_heads = max(1, round(generator_size * backbone.num_heads))
        hidden_dim = num_heads * (backbone.hidden_dim // backbone.num_heads)
        dtype = backbone.dtype_policy
        self.generator_projection = keras.layers.Dense(
            hidden_dim,
            kernel_initializer=kernel_initializer(),
            dtype=dtype,
            name="generator_projection",
        )
        self.generator_layers = [
            EncoderBlock(
                hidden_dim,
                num_heads,
                max(1, round(generator_size * backbone.intermediate_dim)),
                dropout=backbone.dropout,
                layer_norm_epsilon=backbone.layer_norm_epsilon,
                kernel_initializer=kernel_initializer(),
                dtype=dtype,
                name=f"generator_layer_{i}",
            )
            for i in range(backbone.num_layers)
        ]
        self.masked_lm_head = MaskedLMHead(
            backbone.token_embedding,
            layer_norm_epsilon=backbone.layer_norm_epsilon,
            kernel_initializer=kernel_initializer(),
            dtype=dtype,
            name="masked_lm_head",
        )
        self.discriminator = ElectraDiscriminator(backbone, compile=False, name="discriminator")
        self.draws = keras.random.SeedGenerator(seed)
        self.replaced_accuracy = keras.metrics.BinaryAccuracy("replaced_accuracy", threshold=0.0)

        # === Functional Model ===
        mask_positions = keras.Input((None,), dtype="int32", name="mask_positions")
        x = self.generator_projection(backbone.embed(**backbone.input))
        for layer in self.generator_layers:
            x = layer(x, padding_mask=backbone.input["padding_mask"])
        super().__init__(
            inputs={**backbone.input, "mask_positions": mask_positions},
            outputs=self.masked_lm_head(x, mask_positions),
            **kwargs,
        )

        # === Config ===
        self.generator_size = generator_size
        self.discriminator_weight = discriminator_weight
        self.seed = seed

    def compile(self, optimizer="auto", loss="auto", *, weighted_metrics="auto", **kwargs):
        """Sets up training; by default with cross-entropy and both accuracies.

        Args:
            optimizer: `keras.optimizers.Optimizer`; "auto" is `training.AdamW()`. Pretraining
                wants a schedule: `training.AdamW(training.WarmupLinearDecay(5e-4, 10_000))`.
            loss: of the generator, as in `keras.Model.compile`; "auto" is the mean over the masked
                tokens of all replicas.
            weighted_metrics: of the generator, as in `keras.Model.compile`; "auto" is the accuracy.
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

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """Adds the discriminator's loss to the generator's (section 2, the equation at the end)."""
        generator_loss = super().compute_loss(x, y, y_pred, sample_weight, training=training)
        corrupted, replaced = self.corrupt(x, y, y_pred, sample_weight)
        inputs = {name: x[name] for name in self.backbone.input} | {"token_ids": corrupted}
        logits = self.discriminator(inputs, training=training)  # (batch, length)
        self.replaced_accuracy.update_state(replaced, logits, sample_weight=x["padding_mask"])
        # The sigmoid of z is the softmax of (0, z).
        both = ops.stack([ops.zeros_like(logits), logits], axis=-1)  # (batch, length, 2)
        loss = GlobalMeanCrossentropy()(replaced, both, sample_weight=x["padding_mask"])
        return generator_loss + self.discriminator_weight * loss

    def corrupt(self, x, y, y_pred, sample_weight=None):
        """Puts one of the generator's guesses in the place of each masked token.

        Args:
            x: dict of the inputs.
            y: int (batch, predictions), the original tokens.
            y_pred: float (batch, predictions, vocabulary), the generator's logits.
            sample_weight: float (batch, predictions), 0 where a slot is unused.

        Returns:
            The pair of token ids int32 (batch, length) and whether each differs from the original,
            int32 (batch, length).
        """
        tokens, positions = x["token_ids"], ops.cast(x["mask_positions"], "int32")
        batch, predictions = ops.shape(positions)
        logits = ops.reshape(y_pred, (-1, ops.shape(y_pred)[-1]))
        guesses = keras.random.categorical(ops.stop_gradient(logits), 1, seed=self.draws)
        guesses = ops.reshape(ops.cast(guesses, tokens.dtype), (batch, predictions))
        used = ops.ones_like(positions) if sample_weight is None else sample_weight
        present = ops.take_along_axis(tokens, positions, axis=1)  # (batch, predictions)
        rows = ops.broadcast_to(ops.arange(batch)[:, None], (batch, predictions))
        indices = ops.stack([rows, positions], axis=-1)  # (batch, predictions, 2)

        def filled(values):
            # Differences add up: an unused slot adds 0, also where a used one has its position.
            differences = ops.where(used > 0, ops.cast(values, tokens.dtype) - present, 0)
            return tokens + ops.scatter(indices, differences, ops.shape(tokens))  # (batch, length)

        corrupted = filled(guesses)
        return corrupted, ops.cast(corrupted != filled(y), "int32")

    def get_config(self):
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "generator_size": self.generator_size,
            "discriminator_weight": self.discriminator_weight,
            "seed": self.seed,
        }
