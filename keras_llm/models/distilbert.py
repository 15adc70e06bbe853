"""DistilBERT ("DistilBERT, a distilled version of BERT", Sanh et al., 2019).

Notable:
- BERT's encoder with half the layers, without segments and without pooled `[CLS]` (section 3): the
  rest is BERT, so that its layers can start as copies of every second one of BERT's;
- same constructor, inputs and output as KerasHub's `DistilBertBackbone`.
"""

import keras

from keras_llm.models.encoder import EncoderBackbone, EncoderMaskedLM


@keras.saving.register_keras_serializable(package="keras_llm")
class DistilBertBackbone(EncoderBackbone):
    """The encoder of DistilBERT: from token ids to one vector for each token.

    Args:
        vocabulary_size: int, number of tokens.
        num_layers: int, number of encoder blocks.
        num_heads: int, attention heads of each block; divides `hidden_dim`.
        hidden_dim: int, features of each token.
        intermediate_dim: int, features inside the feed-forward networks.
        dropout: float in [0, 1), for embeddings, attention scores and sub-layers.
        max_sequence_length: int, number of positions; longer input is an error.
        dtype: precision policy, such as "mixed_bfloat16"; by default Keras' own.
        **kwargs: `name`, `trainable` of `keras.Model`.

    Call arguments:
        inputs: dict of `token_ids` int32 (batch, length) and `padding_mask` bool (batch, length),
            True at real tokens.

    Returns:
        A model whose output is a tensor (batch, length, hidden_dim).

    Raises:
        ValueError: a size is not a positive integer; `num_heads` does not divide `hidden_dim`;
            the input is longer than `max_sequence_length`.

    Example:
        >>> import numpy as np
        >>> backbone = DistilBertBackbone(100, 2, 2, 8, 32, max_sequence_length=16)
        >>> x = {"token_ids": np.array([[2, 7, 8, 3]]), "padding_mask": np.ones((1, 4), bool)}
        >>> tuple(backbone(x).shape)
        (1, 4, 8)
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
            dtype=dtype,
            **kwargs,
        )

    @classmethod
    def base(cls, vocabulary_size=30522, **overrides):
        """Builds 6 layers of 768 features (Sanh et al., 2019, table 3): 66 million weights."""
        return cls._sized(vocabulary_size, 6, 768, overrides)


@keras.saving.register_keras_serializable(package="keras_llm")
class DistilBertMaskedLM(EncoderMaskedLM):
    """DistilBERT with the head that guesses masked tokens.

    "DistilBERT" (Sanh et al., 2019), section 3.

    Args:
        backbone: `DistilBertBackbone`, ours or KerasHub's.
        preprocessor: what turns the raw input of `fit` into the dict below, or None where it is
            one already.
        **kwargs: `name`, `compile` of `keras_hub.models.Task`.

    Call arguments:
        inputs: the backbone's dict, with `mask_positions` int32 (batch, predictions).

    Returns:
        A model whose output is the logits, float32 (batch, predictions, vocabulary).

    Example:
        >>> import numpy as np
        >>> model = DistilBertMaskedLM(DistilBertBackbone(100, 2, 2, 8, 32))
        >>> logits = model({
        ...     "token_ids": np.array([[2, 7, 4, 9, 3]]),
        ...     "padding_mask": np.ones((1, 5), dtype=bool),
        ...     "mask_positions": np.array([[2]]),
        ... })
        >>> tuple(logits.shape)
        (1, 1, 100)
    """

    backbone_cls = DistilBertBackbone
