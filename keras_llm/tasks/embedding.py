"""Text embedding: a vector for a text, near those of texts that mean the same."""

import keras
import keras_hub
import numpy as np
import tensorflow as tf

from keras_llm.models.encoder import sequence_output
from keras_llm.models.sizes import check_vocabulary
from keras_llm.tasks.preprocessing import EncoderPreprocessor, by_length
from keras_llm.tasks.text_task import as_strings, check_sequence_length
from keras_llm.tokenizers.subword import utf8


@keras.saving.register_keras_serializable(package="keras_llm")
class TextEmbedder(keras_hub.models.Task):
    """A backbone whose vectors of the tokens become one vector of the text.

    "Sentence-BERT" (Reimers and Gurevych, 2019), section 3. With published weights there is nothing
    to train: `TextEmbedder(*load_hugging_face("sentence-transformers/all-MiniLM-L6-v2"))`.

    Args:
        backbone: an encoder such as `keras_llm.models.BertBackbone`, ours or KerasHub's.
        tokenizer: the tokenizer that the backbone was trained with.
        sequence_length: int, the most tokens of a text; the rest is cut off. By default what the
            backbone takes, 256 at most.
        pooling: str, "mean" of the vectors of all tokens, or "cls", the first one: what the
            backbone was trained with.
        normalize: bool, whether vectors are of length 1, so that their product is the cosine.
        **kwargs: `name` of `keras_hub.models.Task`.

    Raises:
        ValueError: `sequence_length` is more than the backbone has positions; the tokenizer has
            more tokens than the backbone; another `pooling`.

    Example:
        >>> from keras_llm.models import BertBackbone
        >>> from keras_llm.tokenizers import WordPieceTokenizer
        >>> tokenizer = WordPieceTokenizer.train(["你好，世界！", "再见，世界！"] * 8, 22)
        >>> model = TextEmbedder(BertBackbone.tiny(22), tokenizer)
        >>> model.predict(["你好！", "再见！"]).shape
        (2, 128)
    """

    def __init__(
        self,
        backbone,
        tokenizer,
        sequence_length=None,
        pooling="mean",
        normalize=True,
        **kwargs,
    ):
        limit = getattr(backbone, "max_sequence_length", None) or 256
        sequence_length = sequence_length or min(limit, 256)
        check_sequence_length(sequence_length, limit)
        check_vocabulary(tokenizer, backbone)
        if pooling not in ("mean", "cls"):
            raise ValueError(f'pooling must be "mean" or "cls", not {pooling!r}.')

        # === Layers ===
        self.backbone = backbone
        self.preprocessor = EncoderPreprocessor(
            tokenizer, sequence_length, segments="segment_ids" in backbone.input
        )
        # In float32 under every precision: a mean of hundreds has more digits than its terms.
        self.average = keras.layers.GlobalAveragePooling1D(dtype="float32", name="average")
        self.unit_length = keras.layers.UnitNormalization(dtype="float32", name="unit_length")

        # === Functional Model ===
        x = sequence_output(backbone(backbone.input))  # (batch, length, hidden_dim)
        mean = self.average(x, mask=backbone.input["padding_mask"])  # (batch, hidden_dim)
        vector = mean if pooling == "mean" else keras.ops.cast(x[:, 0], "float32")
        outputs = self.unit_length(vector) if normalize else vector
        super().__init__(inputs=backbone.input, outputs=outputs, compile=False, **kwargs)

        # === Config ===
        self.sequence_length = sequence_length
        self.pooling = pooling
        self.normalize = normalize

    @classmethod
    def from_config(cls, config):
        """Builds the model from `get_config`'s result."""
        parts = {
            name: keras.saving.deserialize_keras_object(config[name])
            for name in ("backbone", "tokenizer")
        }
        return cls(**{**config, **parts})

    def get_config(self):
        """Returns the constructor's arguments."""
        return {
            "backbone": keras.saving.serialize_keras_object(self.backbone),
            "tokenizer": keras.saving.serialize_keras_object(self.preprocessor.tokenizer),
            "sequence_length": self.sequence_length,
            "pooling": self.pooling,
            "normalize": self.normalize,
            "name": self.name,
        }

    def predict(self, x, batch_size=32, verbose=0, **kwargs):
        """Embeds texts, those of like length together, which spares most of the padding.

        Args:
            x: list of str, or a batched `tf.data.Dataset` of texts.
            batch_size: int, texts a step.
            verbose: as in `keras.Model.predict`.
            **kwargs: further arguments of `keras.Model.predict`.

        Returns:
            float32 (texts, hidden_dim), in the order of the texts.
        """
        if isinstance(x, tf.data.Dataset):
            return super().predict(x, verbose=verbose, **kwargs)
        texts = np.array([utf8(text) for text in as_strings(x, "texts")], object)
        order = np.argsort([-len(text) for text in texts], kind="stable")  # the longest first
        batches = tf.data.Dataset.from_tensor_slices(tf.constant(texts[order])).batch(batch_size)
        vectors = super().predict(batches, verbose=verbose, **kwargs)
        return vectors[np.argsort(order)]

    def similarity(self, x, y=None, **kwargs):
        """Compares texts: the cosine of the angle between their vectors, from -1 to 1.

        Args:
            x: list of str.
            y: list of str; by default `x`.
            **kwargs: arguments of `predict`.

        Returns:
            float32 (texts of x, texts of y).

        Example:
            >>> from keras_llm.models import BertBackbone
            >>> from keras_llm.tokenizers import WordPieceTokenizer
            >>> tokenizer = WordPieceTokenizer.train(["你好，世界！", "再见，世界！"] * 8, 22)
            >>> model = TextEmbedder(BertBackbone.tiny(22), tokenizer)
            >>> print(model.similarity(["你好！", "再见！"]).diagonal().round(4))
            [1. 1.]
        """
        x = _unit_length(self.predict(x, **kwargs))
        return x @ (x if y is None else _unit_length(self.predict(y, **kwargs))).T

    def serve(self, text):
        """What an export computes, as a graph.

        Args:
            text: string tensor (batch,).

        Returns:
            A dict of `embedding`, float32 (batch, hidden_dim).
        """
        returns = {"embedding": tf.TensorSpec([None, self.output.shape[-1]], tf.float32)}
        return by_length(self.serve_tokens, self.serve_inputs(text), returns)

    def serve_inputs(self, text):
        """What the model reads of texts: string tensor (batch,) to the preprocessor's dict."""
        return self.preprocessor(text)

    def serve_tokens(self, inputs):
        """The same as `serve` from the preprocessor's dict on."""
        return {"embedding": self(inputs, training=False)}


def _unit_length(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
