"""Where a model starts: attention that looks at the neighbours, or copies, from the first step.

A new encoder attends to all tokens alike and guesses words by their frequency alone until it finds
out, over thousands of steps, that the neighbours matter and where they stand. A new encoder-decoder
writes what targets have in common, with no regard to the source, for longer still. Starting with
attention that is local, or that copies, saves a short run most of its steps.
"""

import math

import keras
from keras import ops

from keras_llm.layers import SinePositionEncoding
from keras_llm.models.t5 import T5Backbone
from keras_llm.models.xlnet import XLNetBackbone


def mimetic_initialization(backbone, seed=0):
    """Sets a new encoder's positions and attention so that a token attends to those beside it.

    After "Mimetic Initialization of Self-Attention Layers" (Trockman and Kolter, 2023), which gives
    vision transformers `W_Q W_K^T` near the identity and sine positions. Here `W_Q = W_K`, so that
    a token attends to what resembles it, and positions are sine waves, so that neighbours resemble
    it; the paper's `W_V W_O` near the negative identity is left out. The longest wave is as long as
    the longest sequence. The waves are 0.1 high, several times BERT's token embeddings (standard
    deviation 0.02): at first the place counts, not the word. Everything is learned on from there.

    XLNet's positions are relative: there each head looks at a distance of its own, 1 before, 1
    behind, 2 before, and so on, and less at others: as much as the inverse square of how far they
    are from it. The encodings of distances are sine waves already, and the product of two of them
    is largest where the distances are the same.

    T5 starts as a copier, with the two steps that language models find to copy ("In-context
    Learning and Induction Heads", Olsson et al., 2022). The first block of the encoder looks at
    the token before, by the table of distances, and writes it beside each token, turned so that it
    is not taken for the token itself. Cross-attention of the decoder's first block looks for those
    places of the source before which stands the token written last, and passes on what stands
    there. The rest of the network learns where to begin, when to stop and when not to copy.

    Args:
        backbone: `BertBackbone`, `XLNetBackbone` or `T5Backbone` with tied embeddings, changed in
            place. One that is trained would lose what it learned.
        seed: int, of the kernels. XLNet's start is without chance.

    Raises:
        ValueError: the output matrix of a T5 is not its table of embeddings, and what is copied
            would be another token there.

    Example:
        >>> from keras_llm.models import BertBackbone
        >>> backbone = BertBackbone.tiny(vocabulary_size=100, max_sequence_length=16)
        >>> mimetic_initialization(backbone)
        >>> attention = backbone.transformer_layers[0].self_attention
        >>> bool(ops.all(attention.query_dense.kernel == attention.key_dense.kernel))
        True
    """
    if isinstance(backbone, XLNetBackbone):
        _look_at_distances(backbone)
        return
    if isinstance(backbone, T5Backbone):
        _copy(backbone, seed)
        return
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


def _look_at_distances(backbone):
    """Lets the first feature of each head say how near a distance is to the head's own."""
    hidden_dim, heads = backbone.hidden_dim, backbone.num_heads
    depth = hidden_dim // heads
    own = [(-1) ** head * (head // 2 + 1) for head in range(heads)]  # 1, -1, 2, -2, ...
    encode = SinePositionEncoding(dtype="float32")
    waves = [encode(ops.zeros((1, hidden_dim)), start_index=distance)[0] for distance in own]
    waves = ops.stack(waves, axis=1)  # (hidden_dim, heads)

    # The lengths of the waves are spread evenly over the logarithms up to that of 10000: from a
    # distance to one that is e times as far from the head's own, their product falls by
    # hidden_dim / 2 / log(10000). Divided by the root of the depth, that shall be 2.
    scale = 2 * math.log(10000) / (hidden_dim / 2) * depth**0.5
    for layer in backbone.transformer_layers:
        attention = layer.self_attention
        kernel = ops.reshape(attention.position_dense.kernel, (hidden_dim, heads, depth))
        kernel = ops.concatenate([waves[:, :, None] * scale**0.5, kernel[:, :, 1:]], axis=2)
        attention.position_dense.kernel.assign(ops.reshape(kernel, (hidden_dim, heads * depth)))
        bias = attention.position_bias  # (heads, depth)
        first = ops.full((heads, 1), scale**0.5)
        bias.assign(ops.concatenate([first, bias[:, 1:]], axis=1))


def _copy(backbone, seed):
    """Lets the encoder write who stands before, and cross-attention look for it."""
    if not backbone.tie_embedding_weights:
        raise ValueError(
            "A T5 starts as a copier only where its output matrix is the table of its embeddings: "
            "build it with tie_embedding_weights=True."
        )
    orthogonal = keras.initializers.Orthogonal(seed=keras.random.SeedGenerator(seed))
    turn = orthogonal((backbone.hidden_dim, backbone.hidden_dim))
    depth = backbone.key_value_dim
    # To the features of all heads and, transposed, back to those of the token.
    split = orthogonal((backbone.hidden_dim, backbone.num_heads * depth))

    table = backbone.encoder_position_bias.embeddings  # (buckets, heads)
    before = ops.one_hot([1], table.shape[0])  # bucket 1: the token before
    table.assign(table + 6.0 * ops.transpose(before))
    look_back = backbone.encoder_layers[0].self_attention
    _assign(look_back.value_dense, split)
    _assign(look_back.output_dense, ops.matmul(ops.transpose(split), turn))

    # The query is the token written last, the key what the encoder wrote there: the token before.
    # Features have a variance of 1, so the product of `depth` of them is about `depth` for the same
    # token and its root for another. What is passed on shall outweigh the token written last, which
    # the residual connections carry to the output.
    copier = backbone.decoder_layers[0].cross_attention
    scale = (4.5 * depth**-0.5) ** 0.5
    _assign(copier.query_dense, scale * split)
    _assign(copier.key_dense, scale * ops.matmul(ops.transpose(turn), split))
    _assign(copier.value_dense, split)
    _assign(copier.output_dense, 3.0 * ops.transpose(split))


def _assign(dense, kernel):
    dense.kernel.assign(ops.reshape(kernel, dense.kernel.shape))
