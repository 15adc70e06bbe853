"""Large language models from principles to practice, in Keras 3 and TensorFlow."""

__version__ = "0.1.0"
