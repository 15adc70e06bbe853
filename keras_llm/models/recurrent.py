"""Recurrent language models: a vector that carries the text so far.

Notable:
- three cells, the simple RNN ("Finding Structure in Time", Elman, 1990), the LSTM ("Long Short-Term
  Memory", Hochreiter and Schmidhuber, 1997, with the forget gate of Gers et al., 2000) and the GRU
  (Cho et al., 2014), all as Keras computes them;
- the token table is also the output matrix ("Using the Output Embedding to Improve Language
  Models", Press and Wolf, 2016);
- it learns from windows of a fixed length, each begun with an empty state, so gradients reach no
  further back (truncated backpropagation through time); it is judged, and writes, with a state that
  it carries through the whole text, which lowers the perplexity by about one percent.
"""

import contextlib
import functools

import keras
import numpy as np
from keras import ops, tree

from keras_llm.layers import LanguageModelHead
from keras_llm.models.language_model import LanguageModel, blocks_of_texts
from keras_llm.models.sizes import check_sizes
from keras_llm.training import AdamW, GlobalMeanCrossentropy, TrainingMixin, WarmupLinearDecay

CELLS = {"rnn": keras.layers.SimpleRNN, "lstm": keras.layers.LSTM, "gru": keras.layers.GRU}
PEAK_LEARNING_RATE = 1e-2
TOKENS_AT_ONCE = 4096  # judged at once; each takes a row as long as the vocabulary


@keras.saving.register_keras_serializable(package="keras_llm")
class RecurrentLM(TrainingMixin, keras.Model, LanguageModel):
    """Predicts a token from a state that a recurrent network updates token by token.

    `fit` sets up its own training, `AdamW` with a warm-up and a linear decay over that call, unless
    `compile` was called before.

    Args:
        tokenizer: what turns text into ids, such as `keras_llm.tokenizers.WordPieceTokenizer`.
        cell: "rnn", "lstm" or "gru".
        hidden_dim: int, features of each token and of the state.
        num_layers: int, recurrent layers, each reading the outputs of the one before.
        dropout: float in [0, 1), between the layers but not from step to step ("Recurrent Neural
            Network Regularization", Zaremba et al., 2014).
        sequence_length: int, tokens of a training window.
        vocabulary_size: int, rows of the token table; by default as many as the tokenizer has.
        dtype: precision policy, such as "mixed_bfloat16"; by default Keras' own.
        **kwargs: `name`, `trainable` of `keras.Model`.

    Call arguments:
        token_ids: int (batch, length), read with an empty state.

    Returns:
        A model whose output is float32 logits of the token after each one,
        (batch, length, vocabulary).

    Raises:
        ValueError: another cell, a size that is not a positive integer, or a token table smaller
            than the tokenizer's vocabulary.

    Example:
        >>> from keras_llm.tokenizers import WordPieceTokenizer
        >>> keras.utils.set_random_seed(0)
        >>> texts = ["the cat sat on the mat"] * 50
        >>> tokenizer = WordPieceTokenizer.train(texts, 24)
        >>> model = RecurrentLM(tokenizer, "gru", hidden_dim=32, sequence_length=8)
        >>> history = model.fit(texts, batch_size=8, epochs=8, verbose=0)
        >>> model.generate("the cat", temperature=0)
        'the cat sat on the mat'
    """

    def __init__(
        self,
        tokenizer,
        cell="lstm",
        hidden_dim=256,
        num_layers=1,
        dropout=0.1,
        sequence_length=64,
        vocabulary_size=None,
        dtype=None,
        **kwargs,
    ):
        if cell not in CELLS:
            raise ValueError(f"cell must be one of {list(CELLS)}, not {cell!r}.")
        vocabulary_size = vocabulary_size or tokenizer.vocabulary_size()
        check_sizes(
            hidden_dim=hidden_dim,
            num_layers=num_layers,
            sequence_length=sequence_length,
            vocabulary_size=vocabulary_size,
        )
        tokens = getattr(tokenizer, "vocabulary", None)  # None: Keras loads a file, sets it later
        if tokens is not None and len(tokens) > vocabulary_size:
            raise ValueError(
                f"The tokenizer has {len(tokens)} tokens and vocabulary_size is only "
                f"{vocabulary_size}. Leave it out to take the tokenizer's."
            )
        super().__init__(dtype=dtype, **kwargs)

        # === Layers ===
        self.tokenizer = tokenizer
        self.token_embedding = keras.layers.ReversibleEmbedding(
            vocabulary_size,
            hidden_dim,
            embeddings_initializer=keras.initializers.RandomNormal(stddev=hidden_dim**-0.5),
            dtype=dtype,
            name="token_embedding",
        )
        self.recurrent_layers = [
            CELLS[cell](
                hidden_dim,
                return_sequences=True,
                return_state=True,
                dtype=dtype,
                name=f"recurrent_layer_{i}",
            )
            for i in range(num_layers)
        ]
        self.dropout_layers = [
            keras.layers.Dropout(dropout, dtype=dtype, name=f"dropout_{i}")
            for i in range(num_layers + 1)
        ]
        self.head = LanguageModelHead(self.token_embedding, dtype=dtype, name="head")

        # === Weights ===
        self.token_embedding.build((None, None))
        for layer in self.recurrent_layers:
            layer.build((None, None, hidden_dim))
        self.head.build((None, None, hidden_dim))
        self.built = True

        # === Config ===
        self.cell = cell
        self.hidden_dim = hidden_dim
        self.num_layers = num_layers
        self.dropout = dropout
        self.sequence_length = sequence_length
        self.vocabulary_size = vocabulary_size

    def call(self, token_ids, training=False):
        """Returns the logits of the token after each: (batch, length) -> (..., vocabulary)."""
        return self._read(token_ids, [None] * self.num_layers, training)[0]

    def _read(self, token_ids, states, training=False):
        """Reads on from a state of each layer; returns logits and the states after reading."""
        x = self.token_embedding(token_ids)  # (batch, length, hidden_dim)
        x = x * self.hidden_dim**0.5  # the table is small, as an output matrix starts best
        after = []
        for layer, dropout, state in zip(
            self.recurrent_layers, self.dropout_layers, states, strict=False
        ):
            x, *state = layer(dropout(x, training=training), initial_state=state)
            after.append(state)  # of an LSTM two vectors, else one: (batch, hidden_dim)
        x = self.dropout_layers[-1](x, training=training)
        return self.head(x), after

    def get_config(self):
        """Returns the constructor's arguments."""
        return {
            "tokenizer": keras.saving.serialize_keras_object(self.tokenizer),
            "cell": self.cell,
            "hidden_dim": self.hidden_dim,
            "num_layers": self.num_layers,
            "dropout": self.dropout,
            "sequence_length": self.sequence_length,
            "vocabulary_size": self.vocabulary_size,
            "dtype": keras.saving.serialize_keras_object(self.dtype_policy),
            "name": self.name,
            "trainable": self.trainable,
        }

    @classmethod
    def from_config(cls, config):
        """Builds the model from `get_config`'s result."""
        parts = {
            name: keras.saving.deserialize_keras_object(config[name])
            for name in ("tokenizer", "dtype")
        }
        return cls(**{**config, **parts})

    # === Learning ===

    def compile(self, optimizer="auto", loss="auto", **kwargs):
        """Sets up training otherwise than `fit` does by itself.

        Args:
            optimizer: `keras.optimizers.Optimizer`; "auto" is `training.AdamW(1e-3)`.
            loss: as in `keras.Model.compile`; "auto" is `training.GlobalMeanCrossentropy()`, whose
                exponential is the perplexity.
            **kwargs: further arguments of `keras.Model.compile`.
        """
        super().compile(
            AdamW(1e-3) if optimizer == "auto" else optimizer,
            GlobalMeanCrossentropy() if loss == "auto" else loss,
            **kwargs,
        )

    def examples(self, texts, batch_size=32, epochs=1, seed=0):
        """Makes the batches that `fit` trains on; for `training.fit`, which can go on after a stop.

        Texts follow each other, framed, and are cut into windows of `sequence_length` tokens. To
        predict a start token is not asked.

        Args:
            texts: list or other iterable of str, or a `keras_llm.corpora.Corpus`; its ids are held
                in memory.
            batch_size: int, windows a step, of all replicas together; fewer if there are fewer.
            epochs: int, passes over the windows, shuffled anew for each.
            seed: int, of the shuffling.

        Returns:
            A `tf.data.Dataset` of a known number of full batches (x, y, sample_weight), each
            (batch_size, sequence_length): int32, int32, and float32, 0 where y is a start token.

        Raises:
            ValueError: there are no texts.
            TypeError: a single string, or something else than strings.
        """
        import tensorflow as tf

        length, start = self.sequence_length, self.tokenizer.start_token_id
        frames = [ids for block in blocks_of_texts(texts) for ids in self.frame(block)]
        windows = -(-(sum(map(len, frames)) - 1) // length)
        stream = np.full(windows * length + 1, start, "int32")  # what is left over is not asked
        np.concatenate(frames, out=stream[: sum(map(len, frames))], casting="same_kind")
        order = [np.random.default_rng([seed, e]).permutation(windows) for e in range(epochs)]
        stream, within = tf.constant(stream), tf.range(length + 1)

        def batch(rows):
            ids = tf.gather(stream, rows[:, None] * length + within)  # (batch, length + 1)
            x, y = ids[:, :-1], ids[:, 1:]
            return x, y, tf.cast(y != start, "float32")

        rows = tf.data.Dataset.from_tensor_slices(np.concatenate(order).astype("int32"))
        rows = rows.batch(min(batch_size, windows), drop_remainder=True)
        return rows.map(batch).prefetch(tf.data.AUTOTUNE)

    def fit(self, texts, batch_size=32, epochs=1, validation_data=None, seed=0, **kwargs):
        """Trains on texts.

        Args:
            texts: list or other iterable of str, or a `keras_llm.corpora.Corpus`; or a dataset, as
                `examples` makes it.
            batch_size: int, windows a step, of all replicas together.
            epochs: int, passes over the texts.
            validation_data: texts, or a dataset, whose loss is measured after each epoch.
            seed: int, of the order of the windows.
            **kwargs: further arguments of `keras.Model.fit`.

        Returns:
            A `keras.callbacks.History`. The exponential of a loss is a perplexity, here with the
            empty state at the beginning of each window.

        Raises:
            ValueError: there are no texts; nothing is trained then.
            TypeError: a single string, or something else than strings.
        """
        if validation_data is not None and not _is_dataset(validation_data):
            validation_data = self.examples(validation_data, batch_size)
        if not _is_dataset(texts):
            texts = self.examples(texts, batch_size, epochs, seed)
            steps = len(texts)
            kwargs["steps_per_epoch"] = max(steps // epochs, 1)
            if not self.compiled or isinstance(self.optimizer._learning_rate, OneRun):
                with self._scope():
                    self.compile(AdamW(OneRun(PEAK_LEARNING_RATE, steps)))
        kwargs = {"shuffle": False, **kwargs}  # the windows come shuffled
        return super().fit(texts, epochs=epochs, validation_data=validation_data, **kwargs)

    def _scope(self):
        """Where the optimizer's variables belong: with the model's, on all of its replicas."""
        on_tensorflow = keras.backend.backend() == "tensorflow"
        return self.distribute_strategy.scope() if on_tensorflow else contextlib.nullcontext()

    # === Judging and writing ===

    def log_probabilities(self, sequences):
        """Finds how probable each token of framed texts is, carrying the state through each text.

        Args:
            sequences: list of int arrays (tokens,), as `frame` makes them.

        Returns:
            List of float32 arrays (tokens - 1,): natural logarithms; of all but the start token.
        """
        longest_first = sorted(range(len(sequences)), key=lambda i: -len(sequences[i]))
        lengths = np.array([len(sequences[i]) - 1 for i in longest_first])
        ids = np.zeros((len(sequences), lengths[0] + 1), "int32")
        for row, i in zip(ids, longest_first, strict=True):
            row[: len(sequences[i])] = sequences[i]
        found = np.zeros(ids[:, 1:].shape, "float32")  # (texts, longest)

        states, begin = self._empty_states(len(ids)), 0
        while begin < lengths[0]:
            texts = np.count_nonzero(lengths > begin)  # the others have ended
            end = min(begin + max(TOKENS_AT_ONCE // texts, 1), lengths[0])
            states = tree.map_structure(lambda state, texts=texts: state[:texts], states)
            log_p, states = self._reader.predict_on_batch([ids[:texts, begin:end], states])
            targets = ids[:texts, begin + 1 : end + 1, None]
            found[:texts, begin:end] = np.take_along_axis(log_p, targets, axis=-1)[..., 0]
            begin = end
        rows = dict(zip(longest_first, found, strict=True))
        return [rows[i][: len(ids) - 1] for i, ids in enumerate(sequences)]

    def next_token(self, ids, state=None):
        """Reads tokens and says what may come next.

        Args:
            ids: list of int or int array (tokens,), at least one; a text begins with the start
                token.
            state: what an earlier call returned, the vectors of each layer; None: from the
                beginning of a text.

        Returns:
            The pair of the probabilities, float32 (vocabulary,), and the state after reading.
        """
        state = self._empty_states(1) if state is None else state
        log_p, state = self._reader.predict_on_batch([np.array([ids], "int32"), state])
        return np.exp(log_p[0, -1, : self.tokenizer.vocabulary_size()]), state

    def _empty_states(self, texts):
        shapes = [layer.cell.state_size for layer in self.recurrent_layers]  # a number, or a list
        return [
            [np.zeros((texts, size), "float32") for size in tree.flatten(shape)] for shape in shapes
        ]

    @functools.cached_property
    def _reader(self):
        """The network with its states as inputs and outputs, which Keras compiles."""
        token_ids = keras.Input((None,), dtype="int32")
        states = tree.map_structure(lambda s: keras.Input(s.shape[1:]), self._empty_states(1))
        logits, after = self._read(token_ids, states)
        after = tree.map_structure(lambda state: ops.cast(state, "float32"), after)
        return keras.Model([token_ids, states], [ops.log_softmax(logits), after])


@keras.saving.register_keras_serializable(package="keras_llm")
class OneRun(WarmupLinearDecay):
    """The schedule of one call of `RecurrentLM.fit`: the next call, seeing it, makes its own."""


def _is_dataset(data):
    import tensorflow as tf

    return isinstance(data, tf.data.Dataset)
