import numpy as np
import pytest

from keras_llm.models import BertBackbone, XLNetBackbone, mimetic_initialization


def first_scores(backbone, length):
    """Attention scores of the first block on random words, (batch, heads, query, key)."""
    tokens = np.random.default_rng(0).integers(0, 100, (4, length))
    embedded = backbone.token_embedding(tokens)
    x = embedded + backbone.position_embedding(embedded) + backbone.segment_embedding(tokens * 0)
    x = backbone.embeddings_norm(x)
    scores = backbone.transformer_layers[0].self_attention(x, x, x, return_scores=True)[1]
    return np.array(scores)


@pytest.mark.parametrize("length", [32, 64, 256])
def test_attention_starts_near_by_and_falls_off_with_the_distance(length):
    backbone = BertBackbone.tiny(100, max_sequence_length=length)
    before = first_scores(backbone, length)
    assert before.max() < 3 / length  # flat: everything counts alike

    mimetic_initialization(backbone)
    scores = first_scores(backbone, length)
    by_distance = [np.diagonal(scores, d, axis1=2, axis2=3).mean() for d in range(5)]
    assert by_distance == sorted(by_distance, reverse=True)
    near = by_distance[0] + 2 * sum(by_distance[1:4])  # a token and three neighbours on each side
    assert near > 0.8


def test_only_positions_queries_and_keys_are_set():
    backbone = BertBackbone.tiny(100, max_sequence_length=16)
    before = {weight.path: np.array(weight) for weight in backbone.weights}
    mimetic_initialization(backbone)
    changed = {w.path for w in backbone.weights if not np.array_equal(w, before[w.path])}
    assert changed == {"position_embedding/embeddings"} | {
        f"transformer_layer_{i}/self_attention/{name}_dense/kernel"
        for i in (0, 1)
        for name in ("query", "key")
    }


def test_kernels_are_drawn_by_the_seed_and_differ_between_layers():
    def kernels(seed):
        backbone = BertBackbone.tiny(100, max_sequence_length=16)
        mimetic_initialization(backbone, seed)
        layers = backbone.transformer_layers
        return [np.array(layer.self_attention.query_dense.kernel) for layer in layers]

    first, second = kernels(1)
    np.testing.assert_array_equal(first, kernels(1)[0])
    assert not np.array_equal(first, kernels(2)[0])
    assert not np.array_equal(first, second)
    assert first.std() == pytest.approx(128**-0.5, rel=0.05)


@pytest.mark.parametrize("sizes", [{}, {"hidden_dim": 96, "num_heads": 6}])
def test_each_head_of_xlnet_starts_at_a_distance_of_its_own(sizes):
    """The share of a key falls as the inverse square of how far it is from the head's distance."""
    length = 64
    backbone = XLNetBackbone.tiny(100, **sizes)
    mimetic_initialization(backbone)
    tokens = np.random.default_rng(0).integers(0, 100, (4, length))
    context = backbone.relative_context(np.ones((4, length), bool), tokens * 0)
    for layer in backbone.transformer_layers:
        x = backbone.token_embedding(tokens)
        scores = np.array(layer.self_attention(x, return_scores=True, **context)[1])
        for head, own in enumerate([1, -1, 2, -2, 3, -3][: backbone.num_heads]):
            shares = {
                distance: np.diagonal(scores[:, head], -distance, axis1=1, axis2=2).mean()
                for distance in range(-24, 25)
            }
            assert max(shares, key=shares.get) == own
            assert shares[own] > 0.2
            further = np.sign(own)
            falls = np.log(shares[own + 5 * further] / shares[own + 15 * further]) / np.log(3)
            assert 1.5 < falls < 2.5


def test_only_positions_of_xlnet_are_set():
    backbone = XLNetBackbone.tiny(100)
    before = {weight.path: np.array(weight) for weight in backbone.weights}
    mimetic_initialization(backbone)
    changed = {w.path for w in backbone.weights if not np.array_equal(w, before[w.path])}
    assert changed == {
        f"transformer_layer_{i}/self_attention/{name}"
        for i in (0, 1)
        for name in ("position_bias", "position_dense/kernel")
    }
