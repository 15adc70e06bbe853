"""Llama ("LLaMA: Open and Efficient Foundation Language Models", Touvron et al., 2023).

Notable:
- GPT-2 with four parts exchanged (section 2.2), each an argument of the same block:

  ================  ========================  ==============================================
  part              GPT-2 (2019)              Llama
  ================  ========================  ==============================================
  positions         a learned table, added    rotary: queries and keys are turned, in each
                    to the tokens             layer, by angles that grow with the position
  normalisation     mean and variance, gain   root mean square, gain
                    and bias
  feed-forward      GELU, factor 4            SwiGLU, three kernels, a factor of about 8/3
  biases            in each dense layer       none
  heads             one for queries, keys     since Llama 2 (70B), several heads of queries
                    and values each           share one of keys and values
  output matrix     the token table           a matrix of its own (in small ones the table)
  dropout           0.1                       none
  ================  ========================  ==============================================

- since Llama 3.1, long wavelengths of the rotary positions are stretched for longer contexts;
- KerasHub's argument names, inputs and output; its `LlamaBackbone` goes into `LlamaCausalLM` too.
"""

import keras
import keras_hub

from keras_llm.layers import CausalBlock
from keras_llm.models.causal_lm import CausalLM
from keras_llm.models.decoder import Decoder
from keras_llm.models.sizes import check_sizes


def _kernel_initializer():
    return keras.initializers.RandomNormal(stddev=0.02)


@keras.saving.register_keras_serializable(package="keras_llm")
class LlamaBackbone(Decoder):
    """The decoder of Llama: from token ids to a vector for each, which has seen those before it.

    "LLaMA" (Touvron et al., 2023), section 2.2; shared heads as in "Llama 2" (Touvron et al.,
    2023), section 2.2; stretched positions as in "The Llama 3 Herd of Models" (2024).

    Args:
        vocabulary_size: int, number of tokens.
        num_layers: int, number of decoder blocks.
        num_query_heads: int, attention heads of each block.
        hidden_dim: int, features of each token.
        intermediate_dim: int, features inside the feed-forward networks.
        num_key_value_heads: int, heads of keys and values; divides `num_query_heads`.
        rope_max_wavelength: float, the longest wavelength of the positions, in units of 2 pi.
        rope_frequency_adjustment_factor: float, at least 1, by which wavelengths longer than the
            context are stretched; None for none.
        rope_low_freq_factor: float. Wavelengths longer than the context divided by it are stretched
            in full.
        rope_high_freq_factor: float. Wavelengths shorter than the context divided by it stay.
        rope_pretraining_sequence_length: int, the context that the model was first trained on.
        layer_norm_epsilon: float, added to the mean square in normalisation.
        dropout: float in [0, 1), for attention scores and sub-layers.
        dtype: precision policy, such as "mixed_bfloat16"; by default Keras' own.
        tie_word_embeddings: bool, whether the token table is the output matrix too.
        head_dim: int, the depth of each head; by default `hidden_dim / num_query_heads`.
        attention_bias: bool, whether the dense layers of attention have a bias.
        mlp_bias: bool, whether those of the feed-forward networks have one.
        max_sequence_length: int, the longest text. No weight depends on it.
        **kwargs: `name`, `trainable` of `keras.Model`.

    Call arguments:
        inputs: dict of `token_ids` int32 (batch, length), `padding_mask` bool (batch, length), True
            at real tokens, and where rows hold several documents `segment_ids` int32 (batch,
            length), the number of each token's document, which is read as if it stood alone.

    Returns:
        A model whose output is a tensor (batch, length, hidden_dim).

    Raises:
        ValueError: a size is not a positive integer; the numbers of heads do not divide what they
            must.

    Example:
        >>> import numpy as np
        >>> backbone = LlamaBackbone(100, 2, 4, 16, 32, num_key_value_heads=2)
        >>> ids = np.array([[2, 7, 8, 3, 0, 0]])
        >>> tuple(backbone({"token_ids": ids, "padding_mask": ids > 0}).shape)
        (1, 6, 16)
    """

    def __init__(
        self,
        vocabulary_size,
        num_layers,
        num_query_heads,
        hidden_dim,
        intermediate_dim,
        num_key_value_heads,
        rope_max_wavelength=10000,
        rope_frequency_adjustment_factor=None,
        rope_low_freq_factor=1.0,
        rope_high_freq_factor=4.0,
        rope_pretraining_sequence_length=8192,
        layer_norm_epsilon=1e-6,
        dropout=0.0,
        dtype=None,
        tie_word_embeddings=False,
        head_dim=None,
        attention_bias=False,
        mlp_bias=False,
        max_sequence_length=2048,
        **kwargs,
    ):
        check_sizes(
            vocabulary_size=vocabulary_size,
            num_layers=num_layers,
            num_query_heads=num_query_heads,
            hidden_dim=hidden_dim,
            intermediate_dim=intermediate_dim,
            num_key_value_heads=num_key_value_heads,
            max_sequence_length=max_sequence_length,
        )

        # === Layers ===
        self.token_embedding = keras.layers.ReversibleEmbedding(
            vocabulary_size,
            hidden_dim,
            tie_weights=tie_word_embeddings,
            embeddings_initializer=_kernel_initializer(),
            dtype=dtype,
            name="token_embedding",
        )
        self.transformer_layers = [
            CausalBlock(
                hidden_dim,
                num_query_heads,
                intermediate_dim,
                dropout=dropout,
                norm_first=True,
                activation="silu",
                layer_norm_epsilon=layer_norm_epsilon,
                kernel_initializer=_kernel_initializer(),
                normalization="rms",
                use_bias=mlp_bias,
                gated=True,
                attention={
                    "num_key_value_heads": num_key_value_heads,
                    "head_dim": head_dim,
                    "use_bias": attention_bias,
                    "rotary": {
                        "max_wavelength": rope_max_wavelength,
                        "scaling_factor": rope_frequency_adjustment_factor or 1.0,
                        "original_length": rope_pretraining_sequence_length,
                        "low_frequency_factor": rope_low_freq_factor,
                        "high_frequency_factor": rope_high_freq_factor,
                    },
                },
                dtype=dtype,
                name=f"transformer_layer_{i}",
            )
            for i in range(num_layers)
        ]
        self.layer_norm = keras.layers.RMSNormalization(
            epsilon=layer_norm_epsilon, dtype=dtype, name="layer_norm"
        )

        # === Functional Model ===
        super().__init__(dtype=dtype, **kwargs)

        # === Config ===
        self.vocabulary_size = vocabulary_size
        self.num_layers = num_layers
        self.num_query_heads = num_query_heads
        self.hidden_dim = hidden_dim
        self.intermediate_dim = intermediate_dim
        self.num_key_value_heads = num_key_value_heads
        self.rope_max_wavelength = rope_max_wavelength
        self.rope_frequency_adjustment_factor = rope_frequency_adjustment_factor
        self.rope_low_freq_factor = rope_low_freq_factor
        self.rope_high_freq_factor = rope_high_freq_factor
        self.rope_pretraining_sequence_length = rope_pretraining_sequence_length
        self.layer_norm_epsilon = layer_norm_epsilon
        self.dropout = dropout
        self.tie_word_embeddings = tie_word_embeddings
        self.head_dim = head_dim
        self.attention_bias = attention_bias
        self.mlp_bias = mlp_bias
        self.max_sequence_length = max_sequence_length

    def _embed(self, token_ids, start_index=0, positions=None, training=None):
        return self.token_embedding(token_ids)  # distances enter in each layer, not positions

    def get_config(self):
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "vocabulary_size": self.vocabulary_size,
            "num_layers": self.num_layers,
            "num_query_heads": self.num_query_heads,
            "hidden_dim": self.hidden_dim,
            "intermediate_dim": self.intermediate_dim,
            "num_key_value_heads": self.num_key_value_heads,
            "rope_max_wavelength": self.rope_max_wavelength,
            "rope_frequency_adjustment_factor": self.rope_frequency_adjustment_factor,
            "rope_low_freq_factor": self.rope_low_freq_factor,
            "rope_high_freq_factor": self.rope_high_freq_factor,
            "rope_pretraining_sequence_length": self.rope_pretraining_sequence_length,
            "layer_norm_epsilon": self.layer_norm_epsilon,
            "dropout": self.dropout,
            "tie_word_embeddings": self.tie_word_embeddings,
            "head_dim": self.head_dim,
            "attention_bias": self.attention_bias,
            "mlp_bias": self.mlp_bias,
            "max_sequence_length": self.max_sequence_length,
        }


@keras.saving.register_keras_serializable(package="keras_llm")
class LlamaCausalLM(CausalLM, keras_hub.models.LlamaCausalLM):
    """Llama as a language model: it learns from texts and writes texts.

    "LLaMA" (Touvron et al., 2023). All methods are those of `GPT2CausalLM`.

    Args:
        backbone: `LlamaBackbone`, ours or KerasHub's.
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
        >>> import numpy as np
        >>> model = LlamaCausalLM(LlamaBackbone(100, 2, 4, 16, 32, num_key_value_heads=2))
        >>> ids = np.array([[2, 7, 8, 0, 0, 0]])
        >>> text = model.generate({"token_ids": ids, "padding_mask": ids > 0}, stop_token_ids=[3])
        >>> text["token_ids"].shape
        (1, 6)
    """

    backbone_cls = LlamaBackbone
