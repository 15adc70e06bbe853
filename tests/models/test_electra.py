"""ELECTRA as it is trained; what it shares with BERT's relatives is in test_encoder.py."""

import battery
import keras
import numpy as np
import pytest

from keras_llm.models import ElectraBackbone, ElectraForPretraining

SIZES = {
    "vocabulary_size": 30,
    "num_layers": 1,
    "num_heads": 4,
    "hidden_dim": 16,
    "embedding_dim": 8,
    "intermediate_dim": 20,
    "max_sequence_length": 10,
}


def make(dropout=0.0, **kwargs):
    keras.utils.set_random_seed(0)
    return ElectraForPretraining(ElectraBackbone(**SIZES, dropout=dropout), **kwargs)


def examples(batch=4, length=8):
    rng = np.random.default_rng(0)
    real = rng.integers(5, length + 1, (batch, 1))
    x = {
        "token_ids": rng.integers(5, 30, (batch, length), dtype="int32"),
        "segment_ids": np.zeros((batch, length), "int32"),
        "padding_mask": np.arange(length) < real,
        "mask_positions": np.tile(np.array([1, 3, 4, 0], "int32"), (batch, 1)),
    }
    used = np.array([1, 1, 1, 0], "float32") * np.ones((batch, 1), "float32")
    y = np.take_along_axis(x["token_ids"], x["mask_positions"], axis=1) * used.astype("int32")
    np.put_along_axis(x["token_ids"], x["mask_positions"][:, :3], 4, axis=1)  # [MASK]
    return x, y, used


def original(x, y):
    tokens = x["token_ids"].copy()
    np.put_along_axis(tokens, x["mask_positions"][:, :3], y[:, :3], axis=1)
    return tokens


def test_only_masked_tokens_are_replaced_by_draws_of_the_generator():
    model, (x, y, used) = make(), examples()
    logits = np.full((4, 4, 30), -1e9, "float32")
    logits[..., 7], logits[..., 9] = np.log(0.25), np.log(0.75)
    counts = np.zeros(30)
    for _ in range(100):
        corrupted, replaced = battery.numpy(model.corrupt(x, y, logits, used))
        drawn = np.take_along_axis(corrupted, x["mask_positions"][:, :3], axis=1)
        counts += np.bincount(drawn.ravel(), minlength=30)
        np.testing.assert_array_equal(replaced == 1, corrupted != original(x, y))
        kept = np.ones((4, 8), bool)
        kept[:, [1, 3, 4]] = False
        np.testing.assert_array_equal(corrupted[kept], x["token_ids"][kept])
    assert counts[7] + counts[9] == 1200
    assert counts[9] / 1200 == pytest.approx(0.75, abs=0.05)


def test_a_right_guess_counts_as_original():
    model, (x, y, used) = make(), examples()
    logits = keras.ops.one_hot(y, 30) * 1e4
    corrupted, replaced = battery.numpy(model.corrupt(x, y, logits, used))
    np.testing.assert_array_equal(corrupted, original(x, y))
    assert not replaced.any()


def test_an_unused_slot_does_not_hide_the_guess_at_its_position():
    """The last slot is unused and says 0, where rows without `[CLS]` may be masked too."""
    model, (x, y, used) = make(), examples()
    masked_first = {**x, "mask_positions": np.tile([0, 3, 4, 0], (4, 1)).astype("int32")}
    logits = keras.ops.one_hot(y, 30) * 1e4
    corrupted, _ = battery.numpy(model.corrupt(masked_first, y, logits, used))
    np.testing.assert_array_equal(corrupted[:, 0], y[:, 0])


def test_loss_is_the_generators_plus_fifty_times_the_discriminators():
    model, (x, y, used) = make(seed=3), examples()
    logits = battery.numpy(model(x)).astype("float64")
    nll = np.log(np.exp(logits).sum(-1)) - np.take_along_axis(logits, y[..., None], -1)[..., 0]
    generator = (nll * used).sum() / used.sum()

    corrupted, replaced = battery.numpy(make(seed=3).corrupt(x, y, logits.astype("f4"), used))
    inputs = {name: x[name] for name in ("segment_ids", "padding_mask")} | {"token_ids": corrupted}
    z = battery.numpy(model.discriminator(inputs)).astype("float64")
    entropy = np.log1p(np.exp(z)) - z * replaced
    discriminator = entropy[x["padding_mask"]].mean()

    loss = keras.Model.test_on_batch(model, x, y, sample_weight=used, return_dict=True)
    assert loss["loss"] == pytest.approx(generator + 50 * discriminator, rel=1e-4)
    right = (z > 0) == replaced
    assert loss["replaced_accuracy"] == pytest.approx(right[x["padding_mask"]].mean())


def test_the_embeddings_are_shared_and_each_weight_is_there_once():
    model = make()
    paths = [weight.path for weight in model.weights]
    assert len(set(paths)) == len(paths)
    of_the_backbone = {weight.path for weight in model.backbone.weights}
    assert of_the_backbone < set(paths)
    assert sum(weight.shape == (30, 8) for weight in model.weights) == 1
    own = [weight for weight in model.weights if weight.path not in of_the_backbone]
    kernels = {weight.path: weight.shape for weight in own if "kernel" in weight.path}
    assert kernels["generator_projection/kernel"] == (8, 4)
    assert kernels["generator_layer_0/self_attention/query_dense/kernel"] == (4, 4)
    assert kernels["replaced_token_head/dense/kernel"] == (16, 16)


def test_learns_on_one_and_two_replicas(replicas):
    with replicas.scope():
        model = make(generator_size=1.0)
        model.compile(keras.optimizers.Adam(1e-2))
    x, y, used = examples()
    history = model.fit(x, y, sample_weight=used, epochs=15, batch_size=4, verbose=0).history
    assert history["loss"][-1] < history["loss"][0] / 2
    assert history["replaced_accuracy"][-1] > 0.85 > history["replaced_accuracy"][0]
    assert history["accuracy"][-1] > history["accuracy"][0]


def test_no_gradient_goes_through_the_draw():
    x, y, used = examples()
    kernels = []
    for weight in (0.0, 50.0):
        model = make(discriminator_weight=weight)
        model.compile(keras.optimizers.SGD(1e-3))
        keras.Model.train_on_batch(model, x, y, sample_weight=used)
        layer = model.generator_layers[0].feed_forward
        kernels.append(battery.numpy((layer.output_dense.kernel, model.masked_lm_head.bias)))
    battery.assert_close(kernels[0], kernels[1])  # the generator's own weights learn from its loss


def test_round_trip_with_the_discriminator(tmp_path):
    model, (x, y, used) = make(generator_size=0.5, discriminator_weight=7.0, seed=5), examples()
    model.fit(x, y, sample_weight=used, verbose=0)
    model.save(tmp_path / "electra.keras")
    loaded = keras.models.load_model(tmp_path / "electra.keras")
    assert (
        loaded.get_config().items()
        >= {
            "generator_size": 0.5,
            "discriminator_weight": 7.0,
            "seed": 5,
        }.items()
    )
    battery.assert_close(battery.numpy(loaded(x)), battery.numpy(model(x)))
    inputs = {name: x[name] for name in x if name != "mask_positions"}
    battery.assert_close(
        battery.numpy(loaded.discriminator(inputs)), battery.numpy(model.discriminator(inputs))
    )
