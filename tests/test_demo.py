import dataclasses
import json

import battery
import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_llm import corpora, demo, serving, training
from keras_llm.models import BertForPretraining

SMALL = {
    "vocabulary_size": 4000,
    "sequence_length": 32,
    "num_layers": 1,
    "hidden_dim": 64,
    "batch_size": 8,
    "epochs": 2,
    "steps_per_epoch": 3,
    "review_length": 16,
    "review_epochs": 1,
    "reviews_at_most": 64,
}


@pytest.fixture(scope="module", params=["en", "zh"])
def finished(request, tmp_path_factory):
    """The main job on real text, with a model too small and steps too few to learn anything."""
    plan = dataclasses.replace(demo.Plan.for_language(request.param), **SMALL)
    folder = tmp_path_factory.mktemp(request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpora, "load", battery.load_thinned(3))  # the whole takes minutes
        if request.param == "zh":  # on one replica, which is faster to trace; English is on two
            patch.setattr(training, "strategy", tf.distribute.get_strategy)
        yield demo.run(request.param, folder, seed=3, plan=plan), plan, folder


def test_report_holds_every_figure(finished):
    report, _, folder = finished
    assert json.loads((folder / "report.json").read_text()) == json.loads(json.dumps(report))
    accuracies = [name for name in report if "accuracy" in name]
    assert len(accuracies) == 8
    assert all(0.0 <= report[name] <= 1.0 for name in accuracies)
    assert report["sentiment_majority_accuracy"] >= 0.4
    assert report["tokens_per_second"] > 0
    assert report["wall_seconds"] > 0
    assert report["seed"] == 3
    assert report["versions"]["keras"] == keras.__version__


def test_results_lie_where_the_report_says(finished):
    report, plan, folder = finished
    for name in ("history.csv", "curves.png", "checkpoint.safetensors", "tensorboard"):
        assert (folder / "pretraining" / name).exists()
    vocabulary = (folder / "tokenizer" / "vocab.txt").read_text().splitlines()
    assert len(vocabulary) == plan.vocabulary_size
    served = serving.check(report["export"], plan.examples)
    classifier = keras.models.load_model(folder / "classifier.keras")
    predicted = classifier.predict(list(plan.examples), verbose=0)
    np.testing.assert_allclose(served["probabilities"], predicted["probabilities"], atol=1e-5)
    assert isinstance(keras.models.load_model(folder / "bert.keras"), BertForPretraining)


def test_a_finished_run_is_reported_again_without_training(finished):
    report, plan, folder = finished
    again = demo.run(report["language"], folder, seed=3, plan=plan)
    assert again["tokens_per_second"] is None
    assert again["mlm_accuracy"] == pytest.approx(report["mlm_accuracy"])
    assert again["export"].endswith("2")


def test_a_folder_of_other_settings_is_refused_before_any_work(finished):
    report, plan, folder = finished
    with pytest.raises(ValueError, match="other settings"):
        demo.run(report["language"], folder, seed=4, plan=plan)


def test_reviews_are_drawn_from_the_whole_data_set():
    texts, labels = [str(i) for i in range(1000)], ["negative"] * 500 + ["positive"] * 500
    some_texts, some_labels = demo._sample(texts, labels, at_most=100, seed=0)
    assert len(set(some_texts)) == 100
    assert 30 < some_labels.count("positive") < 70
    assert all(labels[int(t)] == label for t, label in zip(some_texts, some_labels, strict=True))


def test_most_frequent_token_is_counted_on_real_targets_only():
    def batch(labels, weights):
        return None, {"masked_lm": np.array(labels)}, {"masked_lm": np.array(weights)}

    train = [batch([[7, 7, 9]], [[1.0, 1.0, 1.0]]), batch([[9, 9, 9]], [[0.0, 0.0, 0.0]])]
    test = [batch([[7, 9, 9, 9]], [[1.0, 1.0, 1.0, 0.0]])]
    assert demo.unigram_accuracy(train, test) == pytest.approx(1 / 3)


def test_unknown_language():
    with pytest.raises(ValueError, match=r"one of \['en', 'zh'\]"):
        demo.run("fr")
