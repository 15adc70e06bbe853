"""What every layer and model must do, whatever it computes; for each backend of Keras."""

import dataclasses
import itertools
import json

import keras
import numpy as np

from keras_llm import corpora

PRECISIONS = {"float32": 1e-5, "mixed_bfloat16": 5e-2, "mixed_float16": 5e-3}  # with tolerances


def load_thinned(every):
    """Returns what stands for `corpora.load`: one document in so many of a data set."""
    load = corpora.load

    def load_some(name):
        corpus = load(name)
        return dataclasses.replace(
            corpus, read=lambda: itertools.islice(corpus.read(), 0, None, every)
        )

    return load_some


def numpy(tensors):
    """Copies the tensors of any structure to NumPy, in float32 where they are of half precision."""

    def copy(tensor):
        is_half = keras.backend.standardize_dtype(tensor.dtype) in ("bfloat16", "float16")
        return keras.ops.convert_to_numpy(keras.ops.cast(tensor, "float32") if is_half else tensor)

    return keras.tree.map_structure(copy, tensors)


def gradients(function, *arrays):
    """Differentiates a scalar function with respect to each array."""
    tensors = [keras.ops.convert_to_tensor(array) for array in arrays]
    if keras.backend.backend() == "jax":
        import jax

        return numpy(list(jax.grad(function, argnums=tuple(range(len(tensors))))(*tensors)))
    import tensorflow as tf

    with tf.GradientTape() as tape:
        tape.watch(tensors)
        value = function(*tensors)
    return numpy(tape.gradient(value, tensors))


def compiled(function):
    """Compiles a function into a graph of the backend."""
    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(function)
    import tensorflow as tf

    return tf.function(function)


def assert_close(actual, desired, tolerance=0.0):
    """Compares arrays in any structure; `tolerance` is both relative and absolute."""
    pairs = zip(keras.tree.flatten(actual), keras.tree.flatten(desired), strict=True)
    for a, d in pairs:
        np.testing.assert_allclose(a, d, rtol=tolerance, atol=tolerance)


def check_layer(make, arguments, tmp_path, options=None):
    """Builds, calls, serialises, saves, trains and runs a layer in every precision.

    make: function of keyword arguments (`dtype`) that makes the layer.
    arguments: dict of the arrays to call it with, by name of the argument.
    options: dict of further arguments of the call that are not arrays.
    """
    options = options or {}
    layer = make()
    expected = numpy(layer(**arguments, **options))
    assert layer.built
    paths = [variable.path for variable in layer.variables]
    assert len(set(paths)) == len(paths)

    # The symbolic call predicts the shapes and types, also of batches of any size.
    inputs = {
        name: keras.Input(array.shape[1:], dtype=array.dtype, name=name)
        for name, array in arguments.items()
    }
    symbolic = layer(**inputs, **options)
    keras.tree.map_structure(
        lambda s, e: np.testing.assert_equal(tuple(s.shape[1:]), e.shape[1:]), symbolic, expected
    )
    model = keras.Model(inputs, symbolic)
    assert_close(model.predict(arguments, verbose=0), expected, 1e-5)

    # The configuration is plain JSON and makes the same layer.
    config = json.loads(json.dumps(layer.get_config()))
    copy = type(layer).from_config(config)
    assert json.loads(json.dumps(copy.get_config())) == config

    # One compiled step: every weight gets a finite value.
    before = numpy([variable.value for variable in model.trainable_variables])
    targets = keras.tree.map_structure(lambda e: np.ones_like(e) / 3, expected)
    model.compile("sgd", loss=keras.tree.map_structure(lambda _: "mse", expected))
    history = model.fit(
        arguments, targets, batch_size=len(next(iter(arguments.values()))), verbose=0
    )
    assert np.isfinite(history.history["loss"]).all()
    after = numpy([variable.value for variable in model.trainable_variables])
    assert not before or any((b != a).any() for b, a in zip(before, after, strict=True))

    # A file of the trained model holds everything, each weight once.
    model.save(tmp_path / "layer.keras")
    loaded = keras.models.load_model(tmp_path / "layer.keras")
    assert [w.path for w in loaded.weights] == [w.path for w in model.weights]
    assert_close(loaded.predict(arguments, verbose=0), model.predict(arguments, verbose=0))

    # Every precision gives about the same numbers from the same float32 weights.
    weights = layer.get_weights()
    expected = numpy(layer(**arguments, **options))
    for precision, tolerance in PRECISIONS.items():
        precise = make(dtype=precision)
        outputs = precise(**arguments, **options)
        precise.set_weights(weights)
        outputs = numpy(precise(**arguments, **options))
        assert all(keras.backend.standardize_dtype(w.dtype) == "float32" for w in precise.weights)
        assert_close(outputs, expected, tolerance)
