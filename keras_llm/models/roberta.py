"""RoBERTa ("RoBERTa: A Robustly Optimized BERT Pretraining Approach", Liu et al., 2019).

Notable:
- BERT's encoder without segments, without pooled `[CLS]` and without next-sentence prediction
  (section 4.2): what else it gains, it gains by training;
- positions are counted over the real tokens, from 2 on, and padding stands at position 1, as in the
  authors' code: padding may be on either side;
- same constructor, inputs and output as KerasHub's `RobertaBackbone`.
"""

import keras
from keras import ops

from keras_llm.layers import PositionEmbedding
from keras_llm.models.encoder import EncoderBackbone, EncoderMaskedLM, kernel_initializer

PADDING_POSITION = 1


@keras.saving.register_keras_serializable(package="keras_llm")
class CountedPositionEmbedding(PositionEmbedding):
    """Learns one vector for each position, and counts real tokens only.

    RoBERTa's code (fairseq, `make_positions`): the first real token is at position 2, padding at 1.

    Args:
        max_sequence_length: int, number of positions; longer input is an error. The table has two
            rows more.
        initializer: initializer of the table.
        **kwargs: `name`, `dtype`, ... of `keras.layers.Layer`.

    Call arguments:
        x: float (batch, length, hidden_dim); only its shape counts.
        padding_mask: bool (batch, length), True at real tokens.

    Returns:
        Tensor of the shape of `x`, to be added to it.

    Raises:
        ValueError: the input is longer than `max_sequence_length`.

    Example:
        >>> embedding = CountedPositionEmbedding(max_sequence_length=16)
        >>> x = keras.ops.zeros((2, 3, 4))
        >>> left, right = embedding(x, keras.ops.array([[False, True, True], [True, True, False]]))
        >>> bool(keras.ops.all(left[1:] == right[:2]))
        True
    """

    def build(self, x_shape, padding_mask_shape=None):
        """Creates the weights."""
        self.embeddings = self.add_weight(
            name="embeddings",
            shape=(self.max_sequence_length + PADDING_POSITION + 1, x_shape[-1]),
            initializer=self.initializer,
        )
        self.built = True

    def call(self, x, padding_mask):
        """Returns the vectors of the positions of `x`."""
        length = x.shape[-2]
        if length is not None and length > self.max_sequence_length:
            raise ValueError(
                f"The input has {length} tokens, but only max_sequence_length="
                f"{self.max_sequence_length} positions are learned. Truncate it, or build the "
                "model with a larger max_sequence_length."
            )
        real = ops.cast(padding_mask, "int32")
        positions = PADDING_POSITION + ops.cumsum(real, axis=-1) * real  # (batch, length)
        return ops.take(ops.convert_to_tensor(self.embeddings), positions, axis=0)

    def compute_output_shape(self, x_shape, padding_mask_shape=None):
        """Returns the shape of the input."""
        return x_shape


@keras.saving.register_keras_serializable(package="keras_llm")
class RobertaBackbone(EncoderBackbone):
    """The encoder of RoBERTa: from token ids to one vector for each token.

    `base` and `large` build it in the sizes of "RoBERTa" (Liu et al., 2019), section 5 and table 9.

    Args:
        vocabulary_size: int, number of tokens.
        num_layers: int, number of encoder blocks.
        num_heads: int, attention heads of each block; divides `hidden_dim`.
        hidden_dim: int, features of each token.
        intermediate_dim: int, features inside the feed-forward networks.
        dropout: float in [0, 1), for embeddings, attention scores and sub-layers.
        max_sequence_length: int, number of positions; longer input is an error.
        layer_norm_epsilon: float, added to the variance in layer normalisation.
        dtype: precision policy, such as "mixed_bfloat16"; by default Keras' own.
        **kwargs: `name`, `trainable` of `keras.Model`.

    Call arguments:
        inputs: dict of `token_ids` int32 (batch, length) and `padding_mask` bool (batch, length),
            True at real tokens; padding may stand on either side.

    Returns:
        A model whose output is a tensor (batch, length, hidden_dim).

    Raises:
        ValueError: a size is not a positive integer; `num_heads` does not divide `hidden_dim`;
            the input is longer than `max_sequence_length`.

    Example:
        >>> import numpy as np
        >>> backbone = RobertaBackbone(100, 2, 2, 8, 32, max_sequence_length=16)
        >>> x = {
        ...     "token_ids": np.array([[0, 7, 8, 2, 1, 1]]),
        ...     "padding_mask": np.array([[True, True, True, True, False, False]]),
        ... }
        >>> tuple(backbone(x).shape)
        (1, 6, 8)
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
        layer_norm_epsilon=1e-5,
        dtype=None,
        **kwargs,
    ):
        super().__init__(
            vocabulary_size,
            num_layers,
            num_heads,
            hidden_dim,
            intermediate_dim,
            dropout=dropout,
            max_sequence_length=max_sequence_length,
            layer_norm_epsilon=layer_norm_epsilon,
            dtype=dtype,
            **kwargs,
        )

    def _position_embedding(self, max_sequence_length, dtype):
        return CountedPositionEmbedding(
            max_sequence_length,
            initializer=kernel_initializer(),
            dtype=dtype,
            name="position_embedding",
        )

    def _positions(self, tokens, padding_mask):
        return self.position_embedding(tokens, padding_mask)

    def get_config(self):
        """Returns the constructor's arguments."""
        return {**super().get_config(), "layer_norm_epsilon": self.layer_norm_epsilon}

    @classmethod
    def base(cls, vocabulary_size=50265, **overrides):
        """Builds 12 layers of 768 features: 124 million weights."""
        return cls._sized(vocabulary_size, 12, 768, overrides)

    @classmethod
    def large(cls, vocabulary_size=50265, **overrides):
        """Builds 24 layers of 1024 features: 354 million weights."""
        return cls._sized(vocabulary_size, 24, 1024, overrides)


@keras.saving.register_keras_serializable(package="keras_llm")
class RobertaMaskedLM(EncoderMaskedLM):
    """RoBERTa with the head it is pretrained with, which guesses masked tokens.

    "RoBERTa" (Liu et al., 2019), sections 2 and 4: fit it on `objectives.masked_lm_examples`,
    which packs full sentences and masks them anew in each epoch.

    Args:
        backbone: `RobertaBackbone`, ours or KerasHub's.
        preprocessor: what turns the raw input of `fit` into the dict below, or None where it is
            one already.
        **kwargs: `name`, `compile` of `keras_hub.models.Task`.

    Call arguments:
        inputs: the backbone's dict, with `mask_positions` int32 (batch, predictions).

    Returns:
        A model whose output is the logits, float32 (batch, predictions, vocabulary).

    Example:
        >>> import numpy as np
        >>> model = RobertaMaskedLM(RobertaBackbone(100, 2, 2, 8, 32, max_sequence_length=16))
        >>> logits = model({
        ...     "token_ids": np.array([[0, 7, 4, 9, 2]]),
        ...     "padding_mask": np.ones((1, 5), dtype=bool),
        ...     "mask_positions": np.array([[2]]),
        ... })
        >>> tuple(logits.shape)
        (1, 1, 100)
    """

    backbone_cls = RobertaBackbone
