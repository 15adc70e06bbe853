"""Where a model starts: attention that looks at the neighbours from the first step.

A new encoder attends to all tokens alike and guesses words by their frequency alone until it finds
out, over thousands of steps, that the neighbours matter and where they stand. Starting with
attention that is local saves a short run most of its steps.
"""

import math

import keras
from keras import ops

from keras_llm.layers import SinePositionEncoding


def mimetic_initialization(backbone, seed=0):
    """Sets a new encoder's positions and attention so that a token attends to those beside it.

    After "Mimetic Initialization of Self-Attention Layers" (Trockman and Kolter, 2023), which gives
    vision transformers `W_Q W_K^T` near the identity and sine positions. Here `W_Q = W_K`, so that
    a token attends to what resembles it, and positions are sine waves, so that neighbours resemble
    it; the paper's `W_V W_O` near the negative identity is left out. The longest wave is as long as
    the longest sequence. The waves are 0.1 high, several times BERT's token embeddings (standard
    deviation 0.02): at first the place counts, not the word. Everything is learned on from there.

    Args:
        backbone: `BertBackbone`, changed in place. One that is trained would lose what it learned.
        seed: int, of the kernels.

    Example:
        >>> from keras_llm.models import BertBackbone
        >>> backbone = BertBackbone.tiny(vocabulary_size=100, max_sequence_length=16)
        >>> mimetic_initialization(backbone)
        >>> attention = backbone.transformer_layers[0].self_attention
        >>> bool(ops.all(attention.query_dense.kernel == attention.key_dense.kernel))
        True
    """
    positions = backbone.position_embedding.embeddings  # (max_sequence_length, hidden_dim)
    waves = SinePositionEncoding(positions.shape[0] / (2 * math.pi), dtype="float32")
    positions.assign(0.1 * waves(ops.zeros(positions.shape)))

    # Of variance 1 / hidden_dim: large enough for the products to tell neighbours apart.
    initializer = keras.initializers.LecunNormal(keras.random.SeedGenerator(seed))
    for layer in backbone.transformer_layers:
        attention = layer.self_attention
        kernel = initializer(attention.query_dense.kernel.shape)  # (hidden_dim, hidden_dim)
        attention.query_dense.kernel.assign(kernel)
        attention.key_dense.kernel.assign(kernel)
