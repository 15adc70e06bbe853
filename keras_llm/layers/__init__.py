"""The parts of a transformer, in plain `keras.ops`: they run on TensorFlow, JAX and PyTorch.

Masks are boolean everywhere, True where a position may be attended to.
"""

from keras_llm.layers.attention import MultiHeadAttention, scaled_dot_product_attention
from keras_llm.layers.blocks import CausalBlock, DecoderBlock, EncoderBlock
from keras_llm.layers.crf import CRF, crf_decode, crf_log_likelihood, crf_marginals
from keras_llm.layers.feed_forward import FeedForward, gelu, gelu_approximate
from keras_llm.layers.heads import (
    LanguageModelHead,
    MaskedLMHead,
    NextSentenceHead,
    ReplacedTokenHead,
)
from keras_llm.layers.positions import (
    PositionEmbedding,
    RelativePositionBias,
    RotaryEmbedding,
    SinePositionEncoding,
)
from keras_llm.layers.relative_attention import (
    RelativeContext,
    RelativeMultiHeadAttention,
    TwoStreamBlock,
)

__all__ = [
    "CRF",
    "CausalBlock",
    "DecoderBlock",
    "EncoderBlock",
    "FeedForward",
    "LanguageModelHead",
    "MaskedLMHead",
    "MultiHeadAttention",
    "NextSentenceHead",
    "PositionEmbedding",
    "RelativeContext",
    "RelativeMultiHeadAttention",
    "RelativePositionBias",
    "ReplacedTokenHead",
    "RotaryEmbedding",
    "SinePositionEncoding",
    "TwoStreamBlock",
    "crf_decode",
    "crf_log_likelihood",
    "crf_marginals",
    "gelu",
    "gelu_approximate",
    "scaled_dot_product_attention",
]
