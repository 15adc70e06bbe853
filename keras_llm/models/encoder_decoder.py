"""What encoder-decoders have in common: encoding, decoding, and decoding step by step.

Notable:
- a model says how it embeds tokens, of which blocks its stacks are and how it scores the
  vocabulary; the rest is the same for the original transformer and for T5;
- `decode_step` writes a text token by token without computing its past again: the source's keys
  and values are projected once, the target's grow by one position a step.
"""

import keras
import keras_hub
from keras import ops


class EncoderDecoder(keras_hub.models.Backbone):
    """Base of models that read a source and write a target.

    "Attention Is All You Need" (Vaswani et al., 2017), section 3. A subclass makes its
    `encoder_layers`, `encoder_norm`, `decoder_layers` and `decoder_norm` before it calls this
    constructor. It says how tokens are embedded (`_embed`), what is added to the scores, if
    anything (`_encoder_bias`, `_decoder_bias`), and how it scores the vocabulary (`logits`).

    Args:
        dtype: precision policy.
        **kwargs: `name`, `trainable` of `keras.Model`.

    Call arguments:
        inputs: dict of `encoder_token_ids` int32 (batch, source), `encoder_padding_mask` bool
            (batch, source), `decoder_token_ids` int32 (batch, target) and `decoder_padding_mask`
            bool (batch, target); masks are True at real tokens.

    Returns:
        A model whose output is a dict of `encoder_sequence_output` (batch, source, hidden_dim) and
        `decoder_sequence_output` (batch, target, hidden_dim).

    Example:
        >>> from keras_llm.models import T5Backbone, Transformer
        >>> issubclass(T5Backbone, EncoderDecoder), issubclass(Transformer, EncoderDecoder)
        (True, True)
    """

    def __init__(self, dtype=None, **kwargs):
        encoder_token_ids = keras.Input((None,), dtype="int32", name="encoder_token_ids")
        encoder_padding_mask = keras.Input((None,), dtype="bool", name="encoder_padding_mask")
        decoder_token_ids = keras.Input((None,), dtype="int32", name="decoder_token_ids")
        decoder_padding_mask = keras.Input((None,), dtype="bool", name="decoder_padding_mask")

        encoder_output = self.encode(encoder_token_ids, encoder_padding_mask)
        decoder_output, _ = self.decode(
            decoder_token_ids, encoder_output, decoder_padding_mask, encoder_padding_mask
        )

        super().__init__(
            inputs={
                "encoder_token_ids": encoder_token_ids,
                "encoder_padding_mask": encoder_padding_mask,
                "decoder_token_ids": decoder_token_ids,
                "decoder_padding_mask": decoder_padding_mask,
            },
            outputs={
                "encoder_sequence_output": encoder_output,
                "decoder_sequence_output": decoder_output,
            },
            dtype=dtype,
            **kwargs,
        )

    def encode(self, token_ids, padding_mask=None):
        """Encodes the source.

        Args:
            token_ids: int32 (batch, source).
            padding_mask: bool (batch, source), True at real tokens.

        Returns:
            Tensor (batch, source, hidden_dim).
        """
        x = self._embed(token_ids)  # (batch, source, hidden_dim)
        position_bias = self._encoder_bias(x)
        for layer in self.encoder_layers:
            x = layer(x, padding_mask=padding_mask, position_bias=position_bias)
        return self.encoder_norm(x)

    def decode(self, token_ids, encoder_output, padding_mask=None, encoder_padding_mask=None):
        """Decodes a whole target at once, as in training.

        Args:
            token_ids: int32 (batch, target), beginning with the start token.
            encoder_output: float (batch, source, hidden_dim).
            padding_mask: bool (batch, target), True at real tokens.
            encoder_padding_mask: bool (batch, source), True at real tokens.

        Returns:
            The pair of a tensor (batch, target, hidden_dim), in which position i has seen the
            target up to i, and the cross-attention of each layer: a list of tensors (batch, heads,
            target, source), how much each target position looks at each source token.
        """
        x, alignments = self._embed(token_ids), []  # (batch, target, hidden_dim)
        position_bias = self._decoder_bias(x)
        for layer in self.decoder_layers:
            x, _, cross_scores = layer(
                x,
                encoder_output,
                padding_mask=padding_mask,
                encoder_padding_mask=encoder_padding_mask,
                position_bias=position_bias,
                return_scores=True,
            )
            alignments.append(cross_scores)
        return self.decoder_norm(x), alignments

    def keys_and_values(self, encoder_output):
        """Projects the source for the cross-attention of each layer, once for all steps.

        Args:
            encoder_output: float (batch, source, hidden_dim).

        Returns:
            A list with one tensor a layer, (batch, 2, heads, source, depth).
        """
        return [
            layer.cross_attention.keys_and_values(encoder_output) for layer in self.decoder_layers
        ]

    def start_cache(self, batch_size, max_length):
        """Makes the cache to write targets with: nothing is in it yet.

        Args:
            batch_size: int or int scalar tensor.
            max_length: int, the most tokens of a target.

        Returns:
            A list with one tensor a layer, zeros (batch, 2, heads, max_length, depth).
        """
        attention = self.decoder_layers[0].self_attention
        shape = (batch_size, 2, attention.num_heads, max_length, attention.head_dim)
        return [ops.zeros(shape, self.compute_dtype) for _ in self.decoder_layers]

    def decode_step(self, token_ids, index, cache, source, encoder_padding_mask=None):
        """Decodes some more tokens of a target, given the cache of those before.

        Args:
            token_ids: int32 (batch, length), usually of length 1.
            index: int or int scalar tensor, position of the first of them in the target.
            cache: what `start_cache` or the last `decode_step` returned.
            source: what `keys_and_values` returned.
            encoder_padding_mask: bool (batch, source), True at real tokens.

        Returns:
            The pair of a tensor (batch, length, hidden_dim) and the new cache.

        Example:
            >>> import numpy as np
            >>> from keras_llm.models import Transformer
            >>> model = Transformer(1, 8, 2, 32, vocabulary_size=100)
            >>> encoded, target = model.encode(np.array([[7, 8, 3]])), np.array([[2, 11]])
            >>> whole, _ = model.decode(target, encoded)
            >>> cache, source = model.start_cache(1, max_length=2), model.keys_and_values(encoded)
            >>> first, cache = model.decode_step(target[:, :1], 0, cache, source)
            >>> second, cache = model.decode_step(target[:, 1:], 1, cache, source)
            >>> bool(np.allclose(whole[:, 1], second[:, 0], atol=1e-5))
            True
        """
        x, new_cache = self._embed(token_ids, index), []  # (batch, length, hidden_dim)
        position_bias = self._decoder_bias(x, ops.shape(cache[0])[3], index)
        for layer, layer_cache, cross_cache in zip(self.decoder_layers, cache, source, strict=True):
            x, layer_cache = layer(
                x,
                encoder_padding_mask=encoder_padding_mask,
                position_bias=position_bias,
                cache=layer_cache,
                cache_index=index,
                cross_cache=cross_cache,
            )
            new_cache.append(layer_cache)
        return self.decoder_norm(x), new_cache

    def _embed(self, token_ids, start_index=0):
        """Embeds tokens (batch, length) of which the first has the position `start_index`."""
        raise NotImplementedError

    def _encoder_bias(self, x):
        """Returns what is added to the scores of the encoder's self-attention, or None."""

    def _decoder_bias(self, x, key_length=None, start_index=0):
        """Returns the same for the decoder's, whose keys are more than the queries `x`."""
