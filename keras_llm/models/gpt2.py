"""GPT-2 ("Language Models are Unsupervised Multitask Learners", Radford et al., 2019).

Notable:
- a decoder alone, normalised before each sub-layer and once more at the end (section 2.3);
- GELU by its approximation with tanh, as the published weights were trained with;
- one table embeds tokens and scores the next one; positions are a learned table;
- the projections onto the residual path start smaller, by the root of their number;
- same constructor, inputs and output as KerasHub's `GPT2Backbone`, which goes into `GPT2CausalLM`
  as well.
"""

import math

import keras
import keras_hub
from keras import ops

from keras_llm.layers import CausalBlock, PositionEmbedding
from keras_llm.models.causal_lm import CausalLM
from keras_llm.models.decoder import Decoder
from keras_llm.models.sizes import check_sizes

LAYER_NORM_EPSILON = 1e-5  # as in the authors' code


def _kernel_initializer():
    return keras.initializers.RandomNormal(stddev=0.02)


@keras.saving.register_keras_serializable(package="keras_llm")
def gelu_tanh(x):
    """Approximates `keras_llm.layers.gelu` by tanh (Hendrycks and Gimpel, 2016, section 2).

    Args:
        x: float tensor of any shape.

    Returns:
        Tensor of the shape and type of `x`.

    Example:
        >>> print(keras.ops.convert_to_numpy(gelu_tanh(keras.ops.array([-1.0, 0.0, 1.0]))).round(4))
        [-0.1588  0.      0.8412]
    """
    return ops.gelu(x, approximate=True)


@keras.saving.register_keras_serializable(package="keras_llm")
class GPT2Backbone(Decoder):
    """The decoder of GPT-2: from token ids to a vector for each, which has seen those before it.

    "Language Models are Unsupervised Multitask Learners" (Radford et al., 2019), section 2.3. The
    class methods `small` to `xl` build it in the sizes of table 2; the counts there are too low, as
    the authors' code says. `tiny` and `mini` have the sizes of a BERT of this name.

    Args:
        vocabulary_size: int, number of tokens.
        num_layers: int, number of decoder blocks.
        num_heads: int, attention heads of each block; divides `hidden_dim`.
        hidden_dim: int, features of each token.
        intermediate_dim: int, features inside the feed-forward networks.
        dropout: float in [0, 1), for embeddings, attention scores and sub-layers.
        max_sequence_length: int, number of positions; longer input is an error.
        dtype: precision policy, such as "mixed_bfloat16"; by default Keras' own.
        **kwargs: `name`, `trainable` of `keras.Model`.

    Call arguments:
        inputs: dict of `token_ids` int32 (batch, length), `padding_mask` bool (batch, length), True
            at real tokens, and where rows hold several documents `segment_ids` int32 (batch,
            length), the number of each token's document, which is read as if it stood alone.

    Returns:
        A model whose output is a tensor (batch, length, hidden_dim).

    Raises:
        ValueError: a size is not a positive integer; `num_heads` does not divide `hidden_dim`;
            the input is longer than `max_sequence_length`.

    Example:
        >>> import numpy as np
        >>> backbone = GPT2Backbone(100, 2, 2, 8, 32, max_sequence_length=16)
        >>> ids = np.array([[2, 7, 8, 3, 0, 0]])
        >>> tuple(backbone({"token_ids": ids, "padding_mask": ids > 0}).shape)
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
        max_sequence_length=1024,
        dtype=None,
        **kwargs,
    ):
        check_sizes(
            vocabulary_size=vocabulary_size,
            num_layers=num_layers,
            num_heads=num_heads,
            hidden_dim=hidden_dim,
            intermediate_dim=intermediate_dim,
            max_sequence_length=max_sequence_length,
        )

        # === Layers ===
        self.token_embedding = keras.layers.ReversibleEmbedding(
            vocabulary_size,
            hidden_dim,
            embeddings_initializer=_kernel_initializer(),
            dtype=dtype,
            name="token_embedding",
        )
        self.position_embedding = PositionEmbedding(
            max_sequence_length,
            initializer=keras.initializers.RandomNormal(stddev=0.01),
            dtype=dtype,
            name="position_embedding",
        )
        self.embeddings_add = keras.layers.Add(dtype=dtype, name="embeddings_add")
        self.embeddings_dropout = keras.layers.Dropout(
            dropout, dtype=dtype, name="embeddings_dropout"
        )
        self.transformer_layers = [
            CausalBlock(
                hidden_dim,
                num_heads,
                intermediate_dim,
                dropout=dropout,
                norm_first=True,
                activation=gelu_tanh,
                layer_norm_epsilon=LAYER_NORM_EPSILON,
                kernel_initializer=_kernel_initializer(),
                dtype=dtype,
                name=f"transformer_layer_{i}",
            )
            for i in range(num_layers)
        ]
        self.layer_norm = keras.layers.LayerNormalization(
            epsilon=LAYER_NORM_EPSILON, dtype=dtype, name="layer_norm"
        )

        # === Functional Model ===
        super().__init__(dtype=dtype, **kwargs)
        _scale_residual_projections(self.transformer_layers)

        # === Config ===
        self.vocabulary_size = vocabulary_size
        self.num_layers = num_layers
        self.num_heads = num_heads
        self.hidden_dim = hidden_dim
        self.intermediate_dim = intermediate_dim
        self.dropout = dropout
        self.max_sequence_length = max_sequence_length

    def _embed(self, token_ids, start_index=0, positions=None, training=None):
        tokens = self.token_embedding(token_ids)  # (batch, length, hidden_dim)
        places = self.position_embedding(tokens, start_index=start_index, positions=positions)
        x = self.embeddings_add([tokens, places])
        return self.embeddings_dropout(x, training=training)

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
            "max_sequence_length": self.max_sequence_length,
        }

    @classmethod
    def tiny(cls, vocabulary_size, **overrides):
        """Builds 2 layers of 128 features: 0.5 million weights and 128 for each token."""
        return cls._sized(vocabulary_size, 2, 128, overrides)

    @classmethod
    def mini(cls, vocabulary_size, **overrides):
        """Builds 4 layers of 256 features: 3.4 million weights and 256 for each token."""
        return cls._sized(vocabulary_size, 4, 256, overrides)

    @classmethod
    def small(cls, vocabulary_size=50257, **overrides):
        """Builds 12 layers of 768 features: 124 million weights."""
        return cls._sized(vocabulary_size, 12, 768, overrides)

    @classmethod
    def medium(cls, vocabulary_size=50257, **overrides):
        """Builds 24 layers of 1024 features: 355 million weights."""
        return cls._sized(vocabulary_size, 24, 1024, overrides)

    @classmethod
    def large(cls, vocabulary_size=50257, **overrides):
        """Builds 36 layers of 1280 features: 774 million weights."""
        return cls._sized(vocabulary_size, 36, 1280, overrides)

    @classmethod
    def xl(cls, vocabulary_size=50257, **overrides):
        """Builds 48 layers of 1600 features: 1558 million weights."""
        return cls._sized(vocabulary_size, 48, 1600, overrides)

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


def _scale_residual_projections(blocks):
    """Scales what is added to the residual path, twice a block, by `1 / sqrt(number of additions)`.

    Otherwise its variance would grow with the depth (section 2.3).
    """
    for block in blocks:
        for dense in (block.self_attention.output_dense, block.feed_forward.output_dense):
            dense.kernel.assign(dense.kernel / math.sqrt(2 * len(blocks)))


@keras.saving.register_keras_serializable(package="keras_llm")
class GPT2CausalLM(CausalLM, keras_hub.models.GPT2CausalLM):
    """GPT-2 as a language model: it learns from texts and writes texts.

    "Language Models are Unsupervised Multitask Learners" (Radford et al., 2019).

    Args:
        backbone: `GPT2Backbone`, ours or KerasHub's.
        preprocessor: `keras_hub.models.CausalLMPreprocessor` with the tokenizer, or None where
            inputs are token ids already.
        **kwargs: `name`, `compile` of `keras_hub.models.Task`.

    Call arguments:
        inputs: the backbone's dict.

    Returns:
        A model whose output is float32 logits of the token after each one, (batch, length,
        vocabulary).

    Raises:
        ValueError: the tokenizer has more tokens than the backbone, or the preprocessor's
            sequences are longer than the backbone's.

    Example:
        >>> from keras_llm.tokenizers import WordPieceTokenizer
        >>> keras.utils.set_random_seed(0)
        >>> texts = ["春眠不覺曉，處處聞啼鳥。", "床前明月光，疑是地上霜。"] * 16
        >>> tokenizer = WordPieceTokenizer.train(texts, vocabulary_size=26)
        >>> preprocessor = keras_hub.models.CausalLMPreprocessor(tokenizer, sequence_length=16)
        >>> backbone = GPT2Backbone(26, 1, 2, 32, 64, max_sequence_length=16, dropout=0.0)
        >>> model = GPT2CausalLM(backbone, preprocessor)
        >>> model.compile(keras.optimizers.Adam(1e-2), sampler="greedy")
        >>> history = model.fit(texts, batch_size=8, epochs=20, verbose=0)
        >>> model.generate("床")
        '床前明月光，疑是地上霜。'
    """

    backbone_cls = GPT2Backbone
