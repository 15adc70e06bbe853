"""Training: where it runs, what it minimises, how it steps and how it goes on after a stop."""

from keras_llm.training.checkpoint import Checkpoint, restore_checkpoint, save_checkpoint
from keras_llm.training.curves import plot_curves
from keras_llm.training.distribution import (
    densify,
    global_sum,
    is_first_worker,
    is_multi_worker,
    strategy,
)
from keras_llm.training.fine_tuning import freeze, layerwise_decay
from keras_llm.training.fit import fit, read_history
from keras_llm.training.losses import GlobalMeanBinaryCrossentropy, GlobalMeanCrossentropy
from keras_llm.training.model import TrainingMixin
from keras_llm.training.optimizers import AdamW, GlobalGradients
from keras_llm.training.precision import fast_dtype_policy
from keras_llm.training.run_folder import versions, write_json
from keras_llm.training.schedules import WarmupInverseSquareRootDecay, WarmupLinearDecay

__all__ = [
    "AdamW",
    "Checkpoint",
    "GlobalGradients",
    "GlobalMeanBinaryCrossentropy",
    "GlobalMeanCrossentropy",
    "TrainingMixin",
    "WarmupInverseSquareRootDecay",
    "WarmupLinearDecay",
    "densify",
    "fast_dtype_policy",
    "fit",
    "freeze",
    "global_sum",
    "is_first_worker",
    "is_multi_worker",
    "layerwise_decay",
    "plot_curves",
    "read_history",
    "restore_checkpoint",
    "save_checkpoint",
    "strategy",
    "versions",
    "write_json",
]
