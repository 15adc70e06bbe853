import numpy as np
import pytest

from keras_llm.models import BertBackbone, T5Backbone, XLNetBackbone, mimetic_initialization


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


def copying_attention(backbone, tokens):
    """Cross-attention of the first block, (batch, heads, target, source), of a text on itself."""
    mask = np.ones(tokens.shape, bool)
    encoded = backbone.encode(tokens, mask)
    _, alignments = backbone.decode(tokens, encoded, mask, mask)
    return np.array(alignments[0])


@pytest.mark.parametrize(
    "sizes",
    [
        {"num_layers": 2, "num_heads": 4, "hidden_dim": 128, "intermediate_dim": 256},
        {"num_layers": 1, "num_heads": 2, "hidden_dim": 96, "intermediate_dim": 64},
        {"num_layers": 4, "num_heads": 4, "hidden_dim": 256, "intermediate_dim": 1024}
        | {"key_value_dim": 80},  # more features in all heads than of a token
        {"num_layers": 2, "num_heads": 4, "hidden_dim": 256, "intermediate_dim": 64}
        | {"key_value_dim": 48, "use_gated_activation": True},  # fewer
    ],
)
def test_a_new_t5_looks_at_what_follows_the_token_written_last(sizes):
    backbone = T5Backbone(1000, dropout=0.0, **sizes)
    rng = np.random.default_rng(0)
    tokens = np.stack([rng.permutation(1000)[:40] for _ in range(8)])  # none twice
    before = copying_attention(backbone, tokens)
    assert before.max(axis=-1).mean() < 0.2

    mimetic_initialization(backbone)
    attention = copying_attention(backbone, tokens)
    next_one = np.diagonal(attention, 1, axis1=2, axis2=3)  # (batch, heads, 39)
    assert next_one.mean() > 0.4  # by chance 1 / 40
    assert (attention[:, :, :-1].argmax(axis=-1) == np.arange(1, 40)).mean() > 0.6


def test_a_new_t5_passes_on_what_it_looks_at():
    """Ahead of all tokens but the one written last, which the residual connections carry."""
    backbone = T5Backbone(1000, 2, 4, 128, 256, dropout=0.0)
    mimetic_initialization(backbone)
    rng = np.random.default_rng(0)
    tokens = np.stack([rng.permutation(1000)[:40] for _ in range(8)])
    mask = np.ones(tokens.shape, bool)
    x, _ = backbone.decode(tokens, backbone.encode(tokens, mask), mask, mask)
    ranked = np.argsort(-np.array(backbone.logits(x)), axis=-1)[:, :-1]  # (batch, 39, 1000)
    two_first = (ranked[..., :2] == tokens[:, 1:, None]).any(axis=-1)
    assert two_first.mean() > 0.5  # by chance 2 / 1000


def test_only_the_copying_attention_of_t5_is_set():
    backbone = T5Backbone(100, 2, 4, 32, 64)
    before = {weight.path: np.array(weight) for weight in backbone.weights}
    mimetic_initialization(backbone)
    changed = {w.path for w in backbone.weights if not np.array_equal(w, before[w.path])}
    assert changed == {"encoder_position_bias/embeddings"} | {
        f"encoder_layer_0/self_attention/{name}_dense/kernel" for name in ("value", "output")
    } | {
        f"decoder_layer_0/cross_attention/{name}_dense/kernel"
        for name in ("query", "key", "value", "output")
    }


def test_t5_with_another_output_matrix_cannot_copy():
    backbone = T5Backbone(100, 1, 2, 8, 16, tie_embedding_weights=False)
    with pytest.raises(ValueError, match="tie_embedding_weights=True"):
        mimetic_initialization(backbone)
