"""BERT ("BERT: Pre-training of Deep Bidirectional Transformers", Devlin et al., 2018).

Notable:
- an encoder that sees both directions, normalised after each sum (post-norm), with exact GELU;
- tokens, positions and segments are three learned tables, summed;
- it learns by guessing masked tokens and whether one segment follows the other, both at once;
- the masked-token head works on the masked positions only and shares the token embedding;
- same constructor, inputs and outputs as KerasHub's `BertBackbone`, so one stands for the other.
"""

import keras
import keras_hub

from keras_llm.layers import MaskedLMHead, NextSentenceHead
from keras_llm.models.encoder import LAYER_NORM_EPSILON, EncoderBackbone, kernel_initializer
from keras_llm.models.sizes import check_sizes
from keras_llm.training import AdamW, GlobalMeanCrossentropy, TrainingMixin


@keras.saving.register_keras_serializable(package="keras_llm")
class BertBackbone(EncoderBackbone):
    """The encoder of BERT: from token ids to one vector for each token and one for the text.

    The class methods `tiny` to `large` build it in the sizes of "Well-Read Students Learn Better"
    (Turc et al., 2019), table 1, and "BERT" (Devlin et al., 2018), section 3.

    Args:
        vocabulary_size: int, number of tokens.
        num_layers: int, number of encoder blocks.
        num_heads: int, attention heads of each block; divides `hidden_dim`.
        hidden_dim: int, features of each token.
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
        A model whose output is a dict of `sequence_output` (batch, length, hidden_dim) and
        `pooled_output` (batch, hidden_dim), a dense layer on the first token, [CLS].

    Raises:
        ValueError: a size is not a positive integer; `num_heads` does not divide `hidden_dim`;
            the input is longer than `max_sequence_length`.

    Example:
        >>> import numpy as np
        >>> backbone = BertBackbone.tiny(vocabulary_size=100, max_sequence_length=16)
        >>> outputs = backbone({
        ...     "token_ids": np.array([[2, 7, 8, 3, 0, 0]]),
        ...     "segment_ids": np.array([[0, 0, 0, 0, 0, 0]]),
        ...     "padding_mask": np.array([[True, True, True, True, False, False]]),
        ... })
        >>> tuple(outputs["sequence_output"].shape), tuple(outputs["pooled_output"].shape)
        ((1, 6, 128), (1, 128))
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
        num_segments=2,
        dtype=None,
        **kwargs,
    ):
        check_sizes(num_segments=num_segments)
        super().__init__(
            vocabulary_size,
            num_layers,
            num_heads,
            hidden_dim,
            intermediate_dim,
            dropout=dropout,
            max_sequence_length=max_sequence_length,
            num_segments=num_segments,
            pooled=True,
            dtype=dtype,
            **kwargs,
        )

    def get_config(self):
        """Returns the constructor's arguments."""
        return {**super().get_config(), "num_segments": self.num_segments}

    @classmethod
    def tiny(cls, vocabulary_size, **overrides):
        """Builds 2 layers of 128 features (Turc et al., 2019): 4.4 million weights."""
        return cls._sized(vocabulary_size, 2, 128, overrides)

    @classmethod
    def mini(cls, vocabulary_size, **overrides):
        """Builds 4 layers of 256 features (Turc et al., 2019): 11 million weights."""
        return cls._sized(vocabulary_size, 4, 256, overrides)

    @classmethod
    def small(cls, vocabulary_size, **overrides):
        """Builds 4 layers of 512 features (Turc et al., 2019): 29 million weights."""
        return cls._sized(vocabulary_size, 4, 512, overrides)

    @classmethod
    def medium(cls, vocabulary_size, **overrides):
        """Builds 8 layers of 512 features (Turc et al., 2019): 41 million weights."""
        return cls._sized(vocabulary_size, 8, 512, overrides)

    @classmethod
    def base(cls, vocabulary_size, **overrides):
        """Builds 12 layers of 768 features (Devlin et al., 2018): 110 million weights."""
        return cls._sized(vocabulary_size, 12, 768, overrides)

    @classmethod
    def large(cls, vocabulary_size, **overrides):
        """Builds 24 layers of 1024 features (Devlin et al., 2018): 335 million weights."""
        return cls._sized(vocabulary_size, 24, 1024, overrides)


@keras.saving.register_keras_serializable(package="keras_llm")
class BertForPretraining(TrainingMixin, keras_hub.models.Task):
    """BERT with both heads it is pretrained with: masked tokens and next sentence.

    "BERT" (Devlin et al., 2018), section 3.1.

    Args:
        backbone: `BertBackbone`, ours or KerasHub's.
        preprocessor: what turns the raw input of `fit` into the dict below, or None where it is
            one already.
        **kwargs: `name`, `compile` of `keras_hub.models.Task`.

    Call arguments:
        inputs: the backbone's dict, with `mask_positions` int32 (batch, predictions).

    Returns:
        A model whose output is a dict of float32 logits: `masked_lm` (batch, predictions,
        vocabulary) and `next_sentence` (batch, 2), index 1 = the second segment follows the first.

    Example:
        >>> import numpy as np
        >>> model = BertForPretraining(BertBackbone.tiny(100, max_sequence_length=16))
        >>> logits = model({
        ...     "token_ids": np.array([[2, 7, 4, 3, 9, 3]]),
        ...     "segment_ids": np.array([[0, 0, 0, 0, 1, 1]]),
        ...     "padding_mask": np.ones((1, 6), dtype=bool),
        ...     "mask_positions": np.array([[2]]),
        ... })
        >>> tuple(logits["masked_lm"].shape), tuple(logits["next_sentence"].shape)
        ((1, 1, 100), (1, 2))
    """

    backbone_cls = BertBackbone

    def __init__(self, backbone, preprocessor=None, **kwargs):
        # === Layers ===
        self.backbone = backbone
        self.preprocessor = preprocessor
        self.masked_lm_head = MaskedLMHead(
            backbone.token_embedding,
            layer_norm_epsilon=LAYER_NORM_EPSILON,
            kernel_initializer=kernel_initializer(),
            dtype=backbone.dtype_policy,
            name="masked_lm_head",
        )
        self.next_sentence_head = NextSentenceHead(
            kernel_initializer=kernel_initializer(),
            dtype=backbone.dtype_policy,
            name="next_sentence_head",
        )

        # === Functional Model ===
        mask_positions = keras.Input((None,), dtype="int32", name="mask_positions")
        encoded = backbone(backbone.input)
        super().__init__(
            inputs={**backbone.input, "mask_positions": mask_positions},
            outputs={
                "masked_lm": self.masked_lm_head(encoded["sequence_output"], mask_positions),
                "next_sentence": self.next_sentence_head(encoded["pooled_output"]),
            },
            **kwargs,
        )

    def compile(self, optimizer="auto", loss="auto", *, weighted_metrics="auto", **kwargs):
        """Sets up training; by default with BERT's two losses, summed, and two accuracies.

        Args:
            optimizer: `keras.optimizers.Optimizer`; "auto" is `training.AdamW()`. Pretraining
                wants a schedule: `training.AdamW(training.WarmupLinearDecay(1e-4, 10_000))`.
            loss: as in `keras.Model.compile`; "auto" is the mean over the masked tokens of all
                replicas plus the mean over all pairs.
            weighted_metrics: as in `keras.Model.compile`; "auto" is the accuracy of each head.
            **kwargs: further arguments of `keras.Model.compile`.
        """
        heads = ("masked_lm", "next_sentence")
        if loss == "auto":
            loss = {head: GlobalMeanCrossentropy() for head in heads}
        if weighted_metrics == "auto":
            accuracy = keras.metrics.SparseCategoricalAccuracy
            weighted_metrics = {head: [accuracy(name="accuracy")] for head in heads}
        optimizer = AdamW() if optimizer == "auto" else optimizer
        super().compile(optimizer, loss, weighted_metrics=weighted_metrics, **kwargs)
