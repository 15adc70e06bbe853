"""Classification without labels: a text has the class whose description it is nearest to.

Notable:

- a class is a vector in the space of texts: without labels that of its description, with a few the
  mean of its examples ("Prototypical Networks for Few-shot Learning", Snell et al., 2017);
- with more labels, `fit` trains vectors and backbone on from there;
- the vectors are weights: a file and an export hold them, and descriptions are embedded once.
"""

import keras
import numpy as np
from keras import ops

from keras_llm.tasks.calibration import TemperatureScaling
from keras_llm.tasks.classification import Classifier, check_classes
from keras_llm.tasks.preprocessing import TextClassifierPreprocessor
from keras_llm.tasks.text_task import ReadsTokens, as_strings


@keras.saving.register_keras_serializable(package="keras_llm")
class Prototypes(keras.layers.Layer):
    r"""Scores vectors by the cosine of the angle to one vector for each class.

    "Prototypical Networks" (Snell et al., 2017), equation 2, whose squared distance is $2 - 2 \cos$
    between vectors of length 1.

    Args:
        num_classes: int.
        scale: float, what cosines are multiplied by, as logits.
        **kwargs: `name`, `dtype` of `keras.layers.Layer`.

    Call arguments:
        x: float (batch, features).

    Returns:
        Float (batch, classes).

    Example:
        >>> layer = Prototypes(num_classes=2, scale=10.0)
        >>> layer.build((None, 2))
        >>> _ = layer.vectors.assign([[1.0, 0.0], [0.0, 2.0]])
        >>> layer(np.array([[3.0, 4.0]])).numpy().round(3).tolist()
        [[6.0, 8.0]]
    """

    def __init__(self, num_classes, scale=20.0, **kwargs):
        super().__init__(**kwargs)
        self.num_classes = num_classes
        self.scale = scale

    def build(self, input_shape):
        """Creates the vectors."""
        shape = (self.num_classes, input_shape[-1])
        self.vectors = self.add_weight(shape=shape, initializer="zeros", name="vectors")

    def call(self, x):
        """Returns the scaled cosines."""
        vectors = ops.normalize(self.vectors)  # (classes, features)
        return self.scale * ops.matmul(ops.normalize(x), ops.transpose(vectors))

    def get_config(self):
        """Returns the constructor's arguments."""
        return {**super().get_config(), "num_classes": self.num_classes, "scale": self.scale}


@keras.saving.register_keras_serializable(package="keras_llm")
class ZeroShotClassifier(ReadsTokens, Classifier):
    """Names the class whose description is nearest to a text; learns from examples if there are.

    "Prototypical Networks" (Snell et al., 2017), section 2.7. Probabilities are those of a softmax
    over cosines; `calibrate` makes them mean what they say. Three ways lead on with labels:

    - a few: `adapt` moves the vectors of the classes to their examples; nothing is trained;
    - more: `fit` trains the vectors and the backbone ("SetFit", Tunstall et al., 2022, trains the
      backbone on pairs of texts before);
    - many: `TextClassifier`.

    Args:
        embedder: `keras_llm.tasks.TextEmbedder`, of a backbone that was trained to put texts near
            each other that mean the same.
        descriptions: dict from the name of a class to its description, or to a list of several, of
            which the mean is taken; or a list of names that describe themselves.
        templates: list of str in which "{}" stands for a description, such as "This film is {}.".
            The mean over all of them is taken ("CLIP", Radford et al., 2021, section 3.1.4).
        scale: float, what cosines are multiplied by before the softmax; all-MiniLM and its
            relatives were trained with 20.
        **kwargs: `name`, `compile` of `keras_hub.models.Task`.

    Raises:
        ValueError: fewer than two classes, a name or a description that is empty, or a template
            without "{}".
        TypeError: something else than strings.

    Example:
        >>> from keras_llm.models import BertBackbone
        >>> from keras_llm.tasks import TextEmbedder
        >>> from keras_llm.tokenizers import WordPieceTokenizer
        >>> tokenizer = WordPieceTokenizer.train(["你好，世界！", "再见，世界！"] * 8, 22)
        >>> embedder = TextEmbedder(BertBackbone.tiny(22), tokenizer)
        >>> model = ZeroShotClassifier(embedder, {"greeting": "你好！", "farewell": "再见！"})
        >>> model.predict(["你好！", "再见！"], verbose=0)["label"].tolist()
        ['greeting', 'farewell']
    """

    def __init__(self, embedder, descriptions, templates=("{}",), scale=20.0, **kwargs):
        if not isinstance(descriptions, dict):
            descriptions = {name: name for name in as_strings(descriptions, "descriptions")}
        descriptions = {
            name: as_strings([texts] if isinstance(texts, str) else texts, f"{name} descriptions")
            for name, texts in descriptions.items()
        }
        templates = as_strings(templates, "templates")
        _check(descriptions, templates)

        # === Layers ===
        self.embedder = embedder
        self.backbone = embedder.backbone
        self.preprocessor = TextClassifierPreprocessor(
            embedder.preprocessor.tokenizer,
            list(descriptions),
            embedder.sequence_length,
            segments="segment_ids" in embedder.input,
        )
        self.prototypes = Prototypes(len(descriptions), scale, dtype="float32", name="prototypes")
        self.temperature_scaling = TemperatureScaling(dtype="float32", name="temperature_scaling")

        # === Functional Model ===
        vector = embedder(embedder.input)  # (batch, features)
        logits = self.temperature_scaling(self.prototypes(vector))  # (batch, classes)
        super().__init__(inputs=embedder.input, outputs=logits, **kwargs)

        # === Config ===
        self.classes = list(descriptions)
        self.descriptions = descriptions
        self.templates = templates
        self.scale = scale

        if has_vocabulary(self.preprocessor.tokenizer):  # else a file is read, with the vectors
            self.prototypes.vectors.assign(self._described())

    @classmethod
    def from_config(cls, config):
        """Builds the model from `get_config`'s result."""
        embedder = keras.saving.deserialize_keras_object(config["embedder"])
        return cls(**{**config, "embedder": embedder})

    def get_config(self):
        """Returns the constructor's arguments."""
        return {
            "embedder": keras.saving.serialize_keras_object(self.embedder),
            "descriptions": {name: list(texts) for name, texts in self.descriptions.items()},
            "templates": list(self.templates),
            "scale": self.scale,
            "name": self.name,
        }

    def adapt(self, x, y, description_weight=8.0, batch_size=32):
        """Moves the vectors of the classes to labelled examples; nothing is trained.

        "Prototypical Networks" (Snell et al., 2017), equation 1: the vector of a class is the mean
        of those of its examples. The descriptions count as further examples. A class without
        examples keeps its descriptions.

        Args:
            x: list of str.
            y: list of str, their labels.
            description_weight: float, as how many examples the descriptions of a class count. A few
                texts say more about their subjects than about their class. 0: they stand alone.
            batch_size: int, texts a step.

        Returns:
            The model itself.

        Raises:
            ValueError: as `fit`; or `description_weight` is less than 0, or it is 0 and a class has
                no examples.
            TypeError: as `fit`.
        """
        texts, labels = self._columns(x, y)
        truth = self._truth(labels)  # (texts, classes)
        missing = [name for name, n in zip(self.classes, truth.sum(axis=0), strict=True) if not n]
        if description_weight < 0 or (missing and not description_weight):
            raise ValueError(
                f"description_weight={description_weight} must be at least 0, and more where "
                f"classes have no examples: {missing}."
            )
        examples = truth.T @ self._unit_vectors(texts, batch_size)  # (classes, features)
        self.prototypes.vectors.assign(
            _unit_length(description_weight * self._described() + examples)
        )
        return self

    def _described(self):
        """Returns the vectors of the descriptions, of length 1: (classes, features)."""
        texts = [
            [template.replace("{}", text) for template in self.templates for text in texts]
            for texts in self.descriptions.values()
        ]
        vectors = self._unit_vectors([text for row in texts for text in row])
        rows = np.split(vectors, np.cumsum([len(row) for row in texts])[:-1])
        return _unit_length(np.stack([row.mean(axis=0) for row in rows]))

    def _unit_vectors(self, texts, batch_size=32):
        return _unit_length(self.embedder.predict(texts, batch_size))


def has_vocabulary(tokenizer):
    """Says whether a tokenizer can be used yet: Keras reads a file's vocabulary last.

    Args:
        tokenizer: a tokenizer, ours or KerasHub's.

    Returns:
        Bool.

    Example:
        >>> from keras_llm.tokenizers import WordPieceTokenizer
        >>> has_vocabulary(WordPieceTokenizer())
        False
    """
    names = ("vocabulary", "proto")  # a proto is what KerasHub's SentencePiece has
    return any(getattr(tokenizer, name, None) is not None for name in names)


def _check(descriptions, templates):
    check_classes(descriptions, multi_label=False)
    for name, texts in descriptions.items():
        if not all(text.strip() for text in texts):
            raise ValueError(f"The class {name!r} has an empty description.")
    for template in templates:
        if "{}" not in template:
            raise ValueError(f'The template {template!r} has no "{{}}" for the description.')


def _unit_length(vectors):
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
