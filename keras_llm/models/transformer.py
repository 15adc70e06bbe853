"""The encoder-decoder of "Attention Is All You Need" (Vaswani et al., 2017).

Notable:
- encoder and decoder are stacks of blocks without recurrence; order comes from sine positions;
- one table embeds source and target tokens and is the output matrix too;
- normalised after each sum as in the paper, or before each sub-layer (`norm_first`), which trains
  without warm-up and needs one more normalisation at the end of each stack.
"""

import math

import keras
from keras import ops

from keras_llm.layers import DecoderBlock, EncoderBlock, SinePositionEncoding
from keras_llm.models.encoder_decoder import EncoderDecoder
from keras_llm.models.sizes import check_sizes


@keras.saving.register_keras_serializable(package="keras_llm")
class Transformer(EncoderDecoder):
    """Encoder and decoder: from the ids of a source and a target to a vector for each token.

    "Attention Is All You Need" (Vaswani et al., 2017), section 3. The class methods `base` and
    `big` build it in the sizes of table 3.

    Args:
        num_layers: int, number of encoder blocks, and of decoder blocks.
        hidden_dim: int, features of each token (the paper's d_model).
        num_heads: int, attention heads of each block; divides `hidden_dim`.
        intermediate_dim: int, features inside the feed-forward networks (the paper's d_ff).
        vocabulary_size: int, number of tokens of source and target together.
        dropout: float in [0, 1), for embeddings, attention scores and sub-layers.
        norm_first: bool, whether to normalise each sub-layer's input (pre-norm; Xiong et al., 2020)
            rather than its sum with the shortcut (post-norm, the paper's).
        activation: name or function inside the feed-forward networks.
        dtype: precision policy, such as "mixed_bfloat16"; by default Keras' own.
        **kwargs: `name`, `trainable` of `keras.Model`.

    Call arguments:
        inputs: dict of `encoder_token_ids` int32 (batch, source), `encoder_padding_mask` bool
            (batch, source), `decoder_token_ids` int32 (batch, target) and `decoder_padding_mask`
            bool (batch, target); masks are True at real tokens.

    Returns:
        A model whose output is a dict of `encoder_sequence_output` (batch, source, hidden_dim) and
        `decoder_sequence_output` (batch, target, hidden_dim).

    Raises:
        ValueError: a size is not a positive integer; `num_heads` does not divide `hidden_dim`.

    Example:
        >>> import numpy as np
        >>> model = Transformer(2, hidden_dim=8, num_heads=2, intermediate_dim=32,
        ...                     vocabulary_size=100)
        >>> outputs = model({
        ...     "encoder_token_ids": np.array([[7, 8, 9, 3]]),
        ...     "encoder_padding_mask": np.ones((1, 4), bool),
        ...     "decoder_token_ids": np.array([[2, 11, 12]]),
        ...     "decoder_padding_mask": np.ones((1, 3), bool),
        ... })
        >>> tuple(model.logits(outputs["decoder_sequence_output"]).shape)
        (1, 3, 100)
    """

    def __init__(
        self,
        num_layers,
        hidden_dim,
        num_heads,
        intermediate_dim,
        vocabulary_size,
        dropout=0.1,
        norm_first=False,
        activation="relu",
        dtype=None,
        **kwargs,
    ):
        check_sizes(
            num_layers=num_layers,
            hidden_dim=hidden_dim,
            num_heads=num_heads,
            intermediate_dim=intermediate_dim,
            vocabulary_size=vocabulary_size,
        )

        # === Layers ===
        # Embeddings times the root of hidden_dim (section 3.4) are then of variance 1.
        self.token_embedding = keras.layers.ReversibleEmbedding(
            vocabulary_size,
            hidden_dim,
            embeddings_initializer=keras.initializers.RandomNormal(stddev=hidden_dim**-0.5),
            dtype=dtype,
            name="token_embedding",
        )
        self.position_encoding = SinePositionEncoding(dtype=dtype, name="position_encoding")
        self.embeddings_dropout = keras.layers.Dropout(
            dropout, dtype=dtype, name="embeddings_dropout"
        )
        sizes = {
            "hidden_dim": hidden_dim,
            "num_heads": num_heads,
            "intermediate_dim": intermediate_dim,
            "dropout": dropout,
            "norm_first": norm_first,
            "activation": activation,
            "dtype": dtype,
        }
        self.encoder_layers = [
            EncoderBlock(**sizes, name=f"encoder_layer_{i}") for i in range(num_layers)
        ]
        self.decoder_layers = [
            DecoderBlock(**sizes, name=f"decoder_layer_{i}") for i in range(num_layers)
        ]
        # The sums of pre-norm blocks are not normalised: at the end they must be.
        final_norm = keras.layers.LayerNormalization if norm_first else keras.layers.Identity
        epsilon = {"epsilon": 1e-5} if norm_first else {}
        self.encoder_norm = final_norm(**epsilon, dtype=dtype, name="encoder_norm")
        self.decoder_norm = final_norm(**epsilon, dtype=dtype, name="decoder_norm")

        # === Functional Model ===
        super().__init__(dtype=dtype, **kwargs)

        # === Config ===
        self.num_layers = num_layers
        self.hidden_dim = hidden_dim
        self.num_heads = num_heads
        self.intermediate_dim = intermediate_dim
        self.vocabulary_size = vocabulary_size
        self.dropout = dropout
        self.norm_first = norm_first
        self.activation = keras.activations.get(activation)

    @classmethod
    def base(cls, vocabulary_size, **overrides):
        """Builds 6 layers of 512 features (table 3, base): 63 million weights at 37,000 tokens."""
        sizes = {"num_layers": 6, "hidden_dim": 512, "num_heads": 8, "intermediate_dim": 2048}
        return cls(vocabulary_size=vocabulary_size, **{**sizes, **overrides})

    @classmethod
    def big(cls, vocabulary_size, **overrides):
        """Builds 6 layers of 1024 features (table 3, big): 214 million weights at 37,000 tokens."""
        sizes = {"num_layers": 6, "hidden_dim": 1024, "num_heads": 16, "intermediate_dim": 4096}
        return cls(vocabulary_size=vocabulary_size, **{**sizes, "dropout": 0.3, **overrides})

    def logits(self, x):
        """Scores every token of the vocabulary with the embedding table (section 3.4).

        Args:
            x: float (..., hidden_dim), the decoder's output.

        Returns:
            float32 (..., vocabulary).
        """
        return ops.cast(self.token_embedding(x, reverse=True), "float32")

    def _embed(self, token_ids, start_index=0):
        x = self.token_embedding(token_ids) * math.sqrt(self.token_embedding.output_dim)
        x = x + self.position_encoding(x, start_index=start_index)
        return self.embeddings_dropout(x)

    def get_config(self):
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "num_layers": self.num_layers,
            "hidden_dim": self.hidden_dim,
            "num_heads": self.num_heads,
            "intermediate_dim": self.intermediate_dim,
            "vocabulary_size": self.vocabulary_size,
            "dropout": self.dropout,
            "norm_first": self.norm_first,
            "activation": keras.activations.serialize(self.activation),
        }
