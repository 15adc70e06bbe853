"""What an export answers: one function for each way to ask.

Notable: every signature goes through the task's own `serve` methods, so that none can answer
otherwise than the others.
"""

import inspect

import keras_hub
import tensorflow as tf

from keras_llm.objectives.randomness import uniform


def signatures(model):
    """Builds the functions of an export.

    Args:
        model: a task with a `serve`.

    Returns:
        A dict from names to `tf.function`:

        - `serving_default`: the strings of `serve`, each (batch,);
        - `examples`: the same in serialized `tf.train.Example`, string (batch,), each feature one
          string;
        - `tokenize`: the same strings to what the model reads, such as `token_ids`;
        - `tokens`: that to what the model answers;
        - `generate`, where the model writes texts: `prompt`, string (batch,), and for each
          text `max_new_tokens`, `temperature`, `top_k`, `top_p` and `seed`.

        A task without token-level methods has the first two.
    """
    names = inspect.signature(model.serve).parameters
    strings = [tf.TensorSpec([None], tf.string, name) for name in names]
    features = {name: tf.io.FixedLenFeature([], tf.string) for name in names}

    def examples(examples):
        return model.serve(**tf.io.parse_example(examples, features))

    found = {
        "serving_default": tf.function(model.serve, input_signature=strings),
        "examples": tf.function(
            examples, input_signature=[tf.TensorSpec([None], tf.string, "examples")]
        ),
    }
    if hasattr(model, "serve_tokens"):
        tokenize = tf.function(model.serve_inputs, input_signature=strings)
        found["tokenize"] = tokenize
        found["tokens"] = _tokens(model, tokenize.get_concrete_function().structured_outputs)
    if hasattr(model, "serve_generate"):
        found["generate"] = _generate(model)
    return found


def _tokens(model, read):
    """The signature of ids: what `tokenize` gives, each of any size."""
    fixed = hasattr(model, "serve_generate")  # a decoder's cache has a fixed length
    specs = [
        tf.TensorSpec(tensor.shape if fixed else [None] * tensor.shape.rank, tensor.dtype, name)
        for name, tensor in read.items()
    ]

    def tokens(*inputs):
        return model.serve_tokens(dict(zip(read, inputs, strict=True)))

    return tf.function(tokens, input_signature=specs)


def _generate(model):
    def generate(prompt, max_new_tokens, temperature, top_k, top_p, seed):
        def sampler(lengths):
            limits = lengths + tf.maximum(max_new_tokens, 0)
            end = model.preprocessor.tokenizer.end_token_id
            return RequestSampler(limits, end, temperature, top_k, top_p, seed)

        return model.serve_generate(prompt, sampler)

    dtypes = {
        "prompt": tf.string,
        "max_new_tokens": tf.int32,
        "temperature": tf.float32,
        "top_k": tf.int32,
        "top_p": tf.float32,
        "seed": tf.int32,
    }
    specs = [tf.TensorSpec([None], dtype, name) for name, dtype in dtypes.items()]
    return tf.function(generate, input_signature=specs)


class RequestSampler(keras_hub.samplers.Sampler):
    """Draws the tokens of each text as its request asks, whatever else is in the batch.

    The token with the greatest sum of `logit / temperature` and Gumbel noise is a draw from the
    softmax ("A* Sampling", Maddison et al., 2014, section 2). The noise is a hash of the request's
    seed, the place and the token: the same request has the same text, alone or in a batch.

    Args:
        limits: int32 (batch,), tokens of each text at most, the start token and prompt included.
        end_token_id: int, what a text is closed with at its limit.
        temperature: float32 (batch,); 0 takes the most probable token.
        top_k: int32 (batch,), how many of the most probable tokens to draw from; 0 for all.
        top_p: float32 (batch,), draw from the most probable tokens that together have this
            probability ("The Curious Case of Neural Text Degeneration", Holtzman et al., 2020);
            1 for all.
        seed: int32 (batch,).

    Example:
        >>> def next_logits(prompt, cache, index):  # token 2 is the most probable, then token 1
        ...     return tf.constant([[0.0, 4.0, 5.0, 0.0]]), None, cache
        >>> one = lambda value: tf.constant([value])
        >>> greedy = RequestSampler(one(4), 3, one(0.0), one(0), one(1.0), one(7))
        >>> greedy(next_logits, tf.zeros((1, 6), tf.int32), index=1).numpy().tolist()
        [[0, 2, 2, 2, 3, 3]]
    """

    def __init__(self, limits, end_token_id, temperature, top_k, top_p, seed):
        super().__init__()
        self.limits = limits
        self.end_token_id = end_token_id
        self.temperature = temperature
        self.top_k = top_k
        self.top_p = top_p
        self.seed = seed

    def __call__(self, next, prompt, **kwargs):
        """Goes on with the prompts, greedily from logits with noise."""

        def drawn(prompt, cache, index):
            logits, hidden_states, cache = next(prompt, cache, index)
            return self.adjusted(logits, index), hidden_states, cache

        return keras_hub.samplers.GreedySampler()(drawn, prompt, **kwargs)

    def adjusted(self, logits, index):
        """Makes the token that is drawn the most probable.

        Args:
            logits: (batch, vocabulary).
            index: int32 scalar, how many tokens stand before; at its limit a text is closed.

        Returns:
            Logits, float32 (batch, vocabulary).
        """
        logits = self._noisy(self._likely(tf.cast(logits, tf.float32)), index)
        ended = index >= self.limits  # (batch,)
        is_end = tf.range(tf.shape(logits)[1]) == self.end_token_id
        return tf.where(ended[:, None], tf.where(is_end, 0.0, -1e9), logits)

    def _likely(self, logits):
        """Divides by the temperature and drops what is beyond `top_k` and `top_p`."""
        logits /= tf.where(self.temperature > 0, self.temperature, 1.0)[:, None]
        vocabulary = tf.shape(logits)[1]
        sorted_logits = tf.sort(logits, axis=1, direction="DESCENDING")  # (batch, vocabulary)
        shares = tf.nn.softmax(sorted_logits)
        before = tf.cumsum(shares, axis=1, exclusive=True)
        kept = tf.reduce_sum(tf.cast(before < self.top_p[:, None], tf.int32), axis=1)
        top_k = tf.where(self.top_k > 0, self.top_k, vocabulary)
        kept = tf.clip_by_value(tf.minimum(kept, top_k), 1, vocabulary)  # (batch,)
        least = tf.gather(sorted_logits, kept - 1, batch_dims=1)
        return tf.where(logits < least[:, None], -1e9, logits)

    def _noisy(self, logits, index):
        """Adds Gumbel noise where the temperature is not 0."""
        count = logits.shape[1]
        share = uniform([self.seed, index], _STREAM, count)  # (batch, vocabulary)
        noise = -tf.math.log(-tf.math.log(share + 2.0**-25))
        return logits + tf.where(self.temperature[:, None] > 0, noise, 0.0)


_STREAM = 0x67656E  # another stream of numbers than those of the objectives
