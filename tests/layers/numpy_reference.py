"""The formulas of the papers in NumPy and float64, one position at a time, to compare with."""

import math

import numpy as np


def softmax(scores):
    weights = np.exp(scores - scores.max())
    return weights / weights.sum()


def attention(q, k, v, mask=None):
    """One head: q (query, depth), k (key, depth), v (key, depth), mask bool (query, key)."""
    output = np.zeros((len(q), v.shape[-1]))
    scores = np.zeros((len(q), len(k)))
    for i, query in enumerate(q):
        visible = [j for j in range(len(k)) if mask is None or mask[i, j]]
        if visible:
            weights = softmax(np.array([query @ k[j] / math.sqrt(len(query)) for j in visible]))
            scores[i, visible] = weights
            output[i] = sum(w * v[j] for w, j in zip(weights, visible, strict=True))
    return output, scores


def multi_head_attention(weights, num_heads, query, key, value, mask=None):
    """One sequence; weights: kernel and bias of query, key, value and output."""
    wq, bq, wk, bk, wv, bv, wo, bo = (np.asarray(w, "float64") for w in weights)
    heads, scores = [], []
    depth = wq.shape[1] // num_heads
    for head in range(num_heads):
        part = slice(head * depth, (head + 1) * depth)
        output, score = attention(
            query @ wq[:, part] + bq[part],
            key @ wk[:, part] + bk[part],
            value @ wv[:, part] + bv[part],
            mask,
        )
        heads.append(output)
        scores.append(score)
    return np.concatenate(heads, axis=-1) @ wo + bo, np.stack(scores)


def gelu(x):
    return np.vectorize(lambda value: value * 0.5 * math.erfc(-value / math.sqrt(2)))(x)


def layer_norm(x, gamma, beta, epsilon):
    mean = x.mean(axis=-1, keepdims=True)
    variance = ((x - mean) ** 2).mean(axis=-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + epsilon) * gamma + beta
