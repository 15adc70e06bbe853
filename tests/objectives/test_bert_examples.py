import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_llm.objectives import bert_examples, read_pairs, sentence_pairs, write_pairs
from keras_llm.tokenizers import WordPieceTokenizer

LENGTH = 64


@pytest.fixture(scope="module")
def folder(speeches, tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("examples") / "shards"
    write_pairs(speeches, tokenizer, folder, LENGTH, shards=3)
    return folder


@pytest.fixture(scope="module", params=["shards", "corpus"])
def source(request, folder, speeches):
    return folder if request.param == "shards" else speeches[:4]


def _arrays(batch):
    return [value.numpy() for value in tf.nest.flatten(batch)]


def _equal(one, other):
    return all(np.array_equal(a, b) for a, b in zip(_arrays(one), _arrays(other), strict=True))


def _originals(x, y, weights):
    """The ids as they were before masking: labels written back."""
    ids = x["token_ids"].numpy().copy()
    for row, positions, labels, used in zip(
        ids,
        x["mask_positions"].numpy(),
        y["masked_lm"].numpy(),
        weights["masked_lm"].numpy(),
        strict=True,
    ):
        row[positions[used == 1]] = labels[used == 1]
    return ids


def _pairs(dataset, tokenizer):
    """Every example of a dataset as (first, second, follows), from which it was made."""
    for x, y, weights in dataset:
        ids = _originals(x, y, weights)
        lengths = x["padding_mask"].numpy().sum(1)
        segments = x["segment_ids"].numpy()
        for row, length, segment, follows in zip(
            ids, lengths, segments, y["next_sentence"].numpy(), strict=True
        ):
            assert not row[length:].any() and not segment[length:].any()
            row, segment = row[:length], segment[:length]
            border = int(np.sum(segment == 0))
            assert list(segment) == [0] * border + [1] * (length - border)
            assert row[0] == tokenizer.cls_token_id
            assert row[border - 1] == row[-1] == tokenizer.sep_token_id
            yield row[1 : border - 1].tolist(), row[border:-1].tolist(), bool(follows)


def test_format(source, tokenizer):
    dataset = bert_examples(source, tokenizer, 8, LENGTH)
    integers = tf.TensorSpec((8, LENGTH), tf.int32)
    predictions = tf.TensorSpec((8, 10), tf.int32)  # 15 % of 64
    assert dataset.element_spec == (
        {
            "token_ids": integers,
            "segment_ids": integers,
            "padding_mask": tf.TensorSpec((8, LENGTH), tf.bool),
            "mask_positions": predictions,
        },
        {"masked_lm": predictions, "next_sentence": tf.TensorSpec((8,), tf.int32)},
        {
            "masked_lm": tf.TensorSpec((8, 10), tf.float32),
            "next_sentence": tf.TensorSpec((8,), tf.float32),
        },
    )
    weights = next(iter(dataset))[2]
    assert np.all(weights["next_sentence"] == 1)
    assert np.all(np.sum(weights["masked_lm"], axis=1) >= 1)


def test_examples_are_the_pairs_of_the_shards(folder, tokenizer):
    dataset = bert_examples(folder, tokenizer, 50, LENGTH, training=False)
    expected = [
        (pair["first"].tolist(), pair["second"].tolist(), bool(pair["follows"]))
        for pair in read_pairs(folder).as_numpy_iterator()
    ]
    assert list(_pairs(dataset, tokenizer)) == expected
    sizes = [len(y["next_sentence"]) for _, y, _ in dataset]
    assert sizes[:-1] == [50] * (len(expected) // 50)  # the remainder is kept
    assert sizes[-1] == len(expected) % 50


def test_examples_are_the_pairs_of_the_corpus(speeches, tokenizer):
    dataset = bert_examples(speeches[:4], tokenizer, 50, LENGTH, training=False, seed=3)
    expected = list(sentence_pairs(speeches[:4], tokenizer, LENGTH, seed=3))
    assert list(_pairs(dataset, tokenizer)) == [tuple(pair) for pair in expected]


@pytest.fixture(scope="module")
def total(folder):
    return json.loads((folder / "manifest.json").read_text())["examples"]


def test_an_epoch_has_every_pair_once(folder, tokenizer, total):
    ordered = list(_pairs(bert_examples(folder, tokenizer, 64, LENGTH, training=False), tokenizer))
    dataset = bert_examples(folder, tokenizer, total, LENGTH, epochs=2)  # a batch is an epoch
    epochs = [list(_pairs([batch], tokenizer)) for batch in dataset]
    assert len(epochs) == 2
    assert epochs[0] != epochs[1] != ordered != epochs[0]
    for epoch in epochs:
        assert sorted(epoch) == sorted(ordered)


def test_order_is_well_mixed(folder, tokenizer):
    """Neighbours in the text are not neighbours in training."""
    ordered = list(_pairs(bert_examples(folder, tokenizer, 64, LENGTH, training=False), tokenizer))
    place = {str(pair): i for i, pair in enumerate(ordered)}
    dataset = bert_examples(folder, tokenizer, 64, LENGTH, epochs=1)
    places = [place[str(pair)] for pair in _pairs(dataset, tokenizer)]
    assert abs(np.corrcoef(places, range(len(places)))[0, 1]) < 0.1


def test_skip_goes_on_exactly(source, tokenizer, total):
    """Also into the second epoch, under another global seed, and when iterated again."""
    dataset = bert_examples(source, tokenizer, 64, LENGTH, seed=5)
    batches = list(dataset.take(30))
    assert total < 29 * 64  # so that the last batch is of the second epoch
    keras.utils.set_random_seed(99)
    for skipped in (1, 29):
        assert _equal(next(iter(dataset.skip(skipped))), batches[skipped])
    again = bert_examples(source, tokenizer, 64, LENGTH, seed=5)
    assert all(_equal(*pair) for pair in zip(again.take(30), batches, strict=True))
    other = bert_examples(source, tokenizer, 64, LENGTH, seed=6)
    assert not _equal(next(iter(other)), batches[0])


def test_masks_of_epochs(folder, tokenizer, total):
    def masks(**options):
        """For each epoch, the positions predicted in every example."""
        for x, y, weights in bert_examples(folder, tokenizer, total, LENGTH, epochs=2, **options):
            rows = _originals(x, y, weights)
            positions = x["mask_positions"].numpy()
            yield {row.tobytes(): p.tobytes() for row, p in zip(rows, positions, strict=True)}

    first, second = masks(dynamic=False)
    assert first == second
    first_dynamic, second_dynamic = masks()
    assert first_dynamic == first
    assert np.mean([first_dynamic[row] == second_dynamic[row] for row in first]) < 0.01


def test_validation_knows_its_length(folder, tokenizer):
    dataset = bert_examples(folder, tokenizer, 50, LENGTH, training=False)
    assert len(dataset) == sum(1 for _ in dataset)


def test_validation_is_fixed(source, tokenizer):
    dataset = bert_examples(source, tokenizer, 64, LENGTH, training=False)
    assert all(_equal(*pair) for pair in zip(dataset, dataset, strict=True))


def test_corpus_gives_other_pairs_in_every_epoch(speeches, tokenizer):
    corpus = speeches[:3]
    versions = [list(sentence_pairs(corpus, tokenizer, LENGTH, epoch=epoch)) for epoch in (0, 1)]
    for dynamic, second in ((True, 1), (False, 0)):
        expected = sorted(map(tuple, versions[0] + versions[second]))
        dataset = bert_examples(corpus, tokenizer, len(expected), LENGTH, epochs=2, dynamic=dynamic)
        assert sorted(_pairs(dataset, tokenizer)) == expected


def test_batches_are_shared_out_to_replicas(source, tokenizer):
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    dataset = bert_examples(source, tokenizer, 16, LENGTH)
    whole = list(dataset.take(5))
    distributed = iter(strategy.experimental_distribute_dataset(dataset))
    for batch in whole:
        replicas = tf.nest.map_structure(
            lambda value: tf.concat(strategy.experimental_local_results(value), 0),
            next(distributed),
        )
        assert _equal(replicas, batch)


def test_whole_words(folder, tokenizer):
    dataset = bert_examples(folder, tokenizer, 64, LENGTH, rate=0.3, whole_word=True)
    x, y, weights = next(iter(dataset))
    for row, positions, used in zip(
        _originals(x, y, weights),
        x["mask_positions"].numpy(),
        weights["masked_lm"].numpy(),
        strict=True,
    ):
        chosen = set(positions[used == 1])
        for position in range(2, LENGTH):
            first, second = (tokenizer.id_to_token(id) for id in row[position - 1 : position + 1])
            if second.startswith("##") and not first.startswith("["):
                assert (position in chosen) == (position - 1 in chosen)


def test_longer_padding(folder, tokenizer):
    x, _, _ = next(iter(bert_examples(folder, tokenizer, 4, 100, max_predictions=7)))
    assert x["token_ids"].shape == (4, 100)
    assert x["mask_positions"].shape == (4, 7)


def test_errors_come_before_the_data(folder, speeches, tokenizer, tmp_path):
    with pytest.raises(FileNotFoundError, match="no complete shards"):
        bert_examples(tmp_path, tokenizer, 8)
    with pytest.raises(ValueError, match="up to 64 tokens, more than sequence_length=32"):
        bert_examples(folder, tokenizer, 8, 32)
    other = WordPieceTokenizer([*tokenizer.get_vocabulary(), "one token more"])
    with pytest.raises(ValueError, match="another vocabulary"):
        bert_examples(folder, other, 8, LENGTH)
    with pytest.raises(ValueError, match="fewer than one batch of 100000"):
        bert_examples(folder, tokenizer, 100_000, LENGTH)
    with pytest.raises(ValueError, match="is empty"):
        bert_examples([], tokenizer, 8)
    with pytest.raises(ValueError, match="need at least two"):
        bert_examples(speeches[:1], tokenizer, 8)
    with pytest.raises(ValueError, match="must be at least 5"):
        bert_examples(speeches, tokenizer, 8, sequence_length=4)
    with pytest.raises(ValueError, match="between 0 and 1"):
        bert_examples(folder, tokenizer, 8, LENGTH, rate=15)
