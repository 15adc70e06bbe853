import keras
import numpy as np
import pytest
import tensorflow as tf
import torch

from keras_llm import training
from keras_llm.training import AdamW, GlobalMeanCrossentropy, WarmupLinearDecay

RNG = np.random.default_rng(0)
TOKENS = RNG.integers(0, 6, (32, 8)).astype("int32")  # 6 tokens, so that rows repeat in a batch
LABELS = RNG.integers(0, 3, (32, 8)).astype("int32")
WEIGHTS = (RNG.random((32, 8)) < np.linspace(0.05, 0.9, 32)[:, None]).astype("float32")  # uneven


def tagger():
    """A token tagger whose embedding rows repeat: the case in which Keras' optimizers go wrong."""
    keras.utils.set_random_seed(1)
    return keras.Sequential(
        [
            keras.Input((8,), dtype="int32"),
            keras.layers.Embedding(6, 4),
            keras.layers.LayerNormalization(),
            keras.layers.Dense(3),
        ]
    )


def trained(strategy, optimizer):
    with strategy.scope():
        model = tagger()
        model.compile(optimizer(), GlobalMeanCrossentropy())
    data = tf.data.Dataset.from_tensor_slices((TOKENS, LABELS, WEIGHTS)).batch(16)
    history = model.fit(data, epochs=4, verbose=0)
    return model, history.history["loss"]


@pytest.mark.parametrize("clip", [None, 0.02], ids=["free", "clipped"])
def test_two_replicas_take_the_same_steps_as_one(clip):
    def optimizer():
        return AdamW(0.05, weight_decay=0.1, global_clipnorm=clip)

    one, loss_one = trained(tf.distribute.get_strategy(), optimizer)
    two, loss_two = trained(training.strategy(), optimizer)
    for a, b in zip(one.get_weights(), two.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    np.testing.assert_allclose(loss_one, loss_two, rtol=1e-5)


@pytest.mark.parametrize("clip", [None, 0.02], ids=["free", "clipped"])
def test_equals_torch_adamw(clip):
    """Eight steps of the same model in PyTorch, which adds up repeated rows by construction."""
    ours, _ = trained(
        tf.distribute.get_strategy(),
        # Keras adds epsilon before the correction of the moments' bias, PyTorch after it.
        lambda: AdamW(0.05, weight_decay=0.1, global_clipnorm=clip, epsilon=1e-12),
    )
    embeddings, gamma, beta, kernel, bias = (
        torch.nn.Parameter(torch.tensor(w)) for w in tagger().get_weights()
    )
    decayed, rest = [embeddings, kernel], [gamma, beta, bias]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}],
        lr=0.05,
        eps=1e-12,
    )
    for _ in range(4):
        for rows in (slice(0, 16), slice(16, 32)):
            x = torch.nn.functional.embedding(torch.tensor(TOKENS[rows]), embeddings)
            x = torch.nn.functional.layer_norm(x, (4,), gamma, beta, eps=1e-3) @ kernel + bias
            losses = torch.nn.functional.cross_entropy(
                x.reshape(-1, 3), torch.tensor(LABELS[rows]).long().reshape(-1), reduction="none"
            )
            weights = torch.tensor(WEIGHTS[rows]).reshape(-1)
            optimizer.zero_grad()
            ((losses * weights).sum() / weights.sum()).backward()
            if clip:
                torch.nn.utils.clip_grad_norm_(decayed + rest, clip)
            optimizer.step()
    for a, b in zip(ours.get_weights(), (embeddings, gamma, beta, kernel, bias), strict=True):
        np.testing.assert_allclose(a, b.detach().numpy(), atol=2e-5)


def test_stock_keras_differs_so_the_test_above_can_fail():
    ours, _ = trained(
        tf.distribute.get_strategy(),
        lambda: AdamW(0.05, weight_decay=0.0, global_clipnorm=None, epsilon=1e-6),
    )
    stock, _ = trained(
        tf.distribute.get_strategy(),
        lambda: keras.optimizers.AdamW(0.05, weight_decay=0.0, epsilon=1e-6),
    )
    assert np.abs(ours.get_weights()[0] - stock.get_weights()[0]).max() > 1e-3


def test_only_matrices_decay(replicas):
    """With zero gradients a step only decays: kernels and embeddings shrink, the rest stays."""
    with replicas.scope():
        model = tagger()
        model.compile(AdamW(0.5, weight_decay=0.1), GlobalMeanCrossentropy())
    before = model.get_weights()
    zeros = tf.data.Dataset.from_tensors((TOKENS, LABELS, np.zeros_like(WEIGHTS)))
    model.fit(zeros, verbose=0)
    embeddings, gamma, beta, kernel, bias = model.get_weights()
    np.testing.assert_allclose(embeddings, 0.95 * before[0], rtol=1e-6)
    np.testing.assert_allclose(kernel, 0.95 * before[3], rtol=1e-6)
    for vector, was in ((gamma, before[1]), (beta, before[2]), (bias, before[4])):
        np.testing.assert_array_equal(vector, was)


def test_float16_loss_scaling_under_two_replicas():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        _, losses = trained(training.strategy(), lambda: AdamW(0.05))
    finally:
        keras.config.set_dtype_policy("float32")
    assert losses[-1] < losses[0]


def test_saved_optimizer_keeps_what_it_does_not_decay(tmp_path):
    model, _ = trained(tf.distribute.get_strategy(), lambda: AdamW(WarmupLinearDecay(0.1, 20)))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert isinstance(loaded.optimizer, AdamW)
    assert int(loaded.optimizer.iterations) == 8
    data = tf.data.Dataset.from_tensors((TOKENS, LABELS, WEIGHTS))
    for m in (model, loaded):
        m.fit(data, verbose=0)
    for a, b in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
