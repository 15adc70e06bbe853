"""What decoders that stand alone share: attention to the past, within a document, and the cache.

Notable:
- a row may hold several documents, one after the other, so that no place of a batch is lost to
  padding. Each sees itself alone and begins at position 0, as if it had a row of its own;
- the computation is written once, in `call`; the functional graph around it gives KerasHub's tasks
  the inputs that they know, and `segment_ids` stays optional;
- `decode_step` goes on with a text token by token without computing its past again.
"""

import keras
import keras_hub
from keras import ops


class Decoder(keras_hub.models.Backbone):
    """A stack of causal blocks; a model adds its embedding and says which blocks.

    A subclass sets `token_embedding`, `transformer_layers` and `layer_norm` before it calls this
    constructor, and defines `_embed`.

    Args:
        dtype: precision policy; by default Keras' own.
        **kwargs: `name`, `trainable` of `keras.Model`.

    Call arguments:
        inputs: dict of `token_ids` int32 (batch, length), `padding_mask` bool (batch, length), True
            at real tokens, and where rows hold several documents `segment_ids` int32 (batch,
            length), the number of each token's document.

    Returns:
        A model whose output is a tensor (batch, length, hidden_dim).
    """

    def __init__(self, dtype=None, **kwargs):
        token_ids = keras.Input((None,), dtype="int32", name="token_ids")
        padding_mask = keras.Input((None,), dtype="bool", name="padding_mask")
        super().__init__(
            inputs={"token_ids": token_ids, "padding_mask": padding_mask},
            outputs=self._decode(token_ids, padding_mask),
            dtype=dtype,
            **kwargs,
        )

    def call(self, inputs, training=None):
        """Decodes whole rows at once, as in training."""
        return self._decode(
            inputs["token_ids"],
            ops.cast(inputs["padding_mask"], "bool"),  # KerasHub's preprocessors make integers
            inputs.get("segment_ids"),
            training=training,
        )

    def _decode(self, token_ids, padding_mask, segment_ids=None, training=None):
        # x: (batch, length, hidden_dim)
        same_document = positions = None
        if segment_ids is not None:
            same_document = segment_ids[:, :, None] == segment_ids[:, None, :]  # (b, query, key)
            first = ops.argmax(same_document, axis=-1)  # (batch, length), where its document begins
            positions = ops.arange(ops.shape(first)[1]) - ops.cast(first, "int32")
        x = self._embed(token_ids, positions=positions, training=training)
        for layer in self.transformer_layers:
            x = layer(x, padding_mask=padding_mask, attention_mask=same_document, training=training)
        return self.layer_norm(x)

    def start_cache(self, batch_size, max_length):
        """Makes the cache to write texts with: nothing is in it yet.

        Args:
            batch_size: int or int scalar tensor.
            max_length: int, the most tokens of a text.

        Returns:
            A list with one tensor a layer, zeros (batch, 2, key_value_heads, max_length, depth).
        """
        attention = self.transformer_layers[0].self_attention
        shape = (batch_size, 2, attention.num_key_value_heads, max_length, attention.head_dim)
        return [ops.zeros(shape, self.compute_dtype) for _ in self.transformer_layers]

    def decode_step(self, token_ids, index, cache):
        """Decodes some more tokens of a text, given the cache of those before.

        Args:
            token_ids: int32 (batch, length), usually of length 1.
            index: int or int scalar tensor, position of the first of them in the text.
            cache: what `start_cache` or the last `decode_step` returned.

        Returns:
            The pair of a tensor (batch, length, hidden_dim) and the new cache.

        Example:
            >>> import numpy as np
            >>> from keras_llm.models import GPT2Backbone
            >>> model, ids = GPT2Backbone(100, 1, 2, 8, 32), np.array([[2, 11, 7]])
            >>> whole = model({"token_ids": ids, "padding_mask": ids > 0})
            >>> cache = model.start_cache(1, max_length=3)
            >>> first, cache = model.decode_step(ids[:, :2], 0, cache)
            >>> second, cache = model.decode_step(ids[:, 2:], 2, cache)
            >>> bool(np.allclose(whole[:, 2:], second, atol=1e-5))
            True
        """
        x, new_cache = self._embed(token_ids, index), []  # (batch, length, hidden_dim)
        for layer, layer_cache in zip(self.transformer_layers, cache, strict=True):
            x, layer_cache = layer(x, cache=layer_cache, cache_index=index)
            new_cache.append(layer_cache)
        return self.layer_norm(x), new_cache

    def _embed(self, token_ids, start_index=0, positions=None, training=None):
        """Embeds tokens (batch, length) at `positions`, or at those from `start_index` on."""
        raise NotImplementedError
