"""A small training run; as a script, one of two hosts: small_run.py FOLDER INDEX PORT PORT."""

import json
import os
import sys

import keras
import numpy as np
import tensorflow as tf

from keras_llm import training

EPOCHS, STEPS = 4, 3


def batches():
    """Twelve different batches, always in the same order."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(EPOCHS * STEPS * 8, 5)).astype("float32")
    data = tf.data.Dataset.from_tensor_slices(
        (features, (features.sum(1) > 0).astype("int32"))
    ).batch(8)
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    return data.with_options(options)


class Classifier(training.TrainingMixin, keras.Sequential):
    """A model of this package's kind: with what several hosts need."""


def run(strategy, folder, dropout=0.3, **kwargs):
    """Trains for EPOCHS x STEPS batches; returns the model and its history."""
    keras.utils.set_random_seed(3)
    with strategy.scope():
        model = Classifier(
            [
                keras.Input((5,)),
                keras.layers.Dense(8, activation="tanh"),
                keras.layers.Dropout(dropout, seed=4),
                keras.layers.Dense(2),
            ]
        )
        model.compile(
            training.AdamW(0.01), training.GlobalMeanCrossentropy(), weighted_metrics=["accuracy"]
        )
    history = training.fit(
        model,
        batches(),
        folder=folder,
        epochs=EPOCHS,
        steps_per_epoch=STEPS,
        validation_data=batches().take(2),
        verbose=0,
        **kwargs,
    )
    return model, history


def main(folder, index, *ports):
    """Trains as host `index` of the hosts on `ports` of this machine and saves its weights."""
    hosts = [f"127.0.0.1:{port}" for port in ports]
    task = {"type": "worker", "index": int(index)}
    os.environ["TF_CONFIG"] = json.dumps({"cluster": {"worker": hosts}, "task": task})
    model, _ = run(training.strategy(), f"{folder}/two", dropout=0.0)
    model.save_weights(f"{folder}/host{index}.weights.h5")


if __name__ == "__main__":
    main(*sys.argv[1:])
