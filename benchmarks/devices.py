"""What does a model lose, and win, as a LiteRT file?

all-MiniLM-L6-v2, its three upper blocks fine-tuned for one epoch on film snippets, as files of 32
and of 8 bits and with shorter rows: accuracy on the held-out snippets beside the model's, size, and
the median time of a row.

    python benchmarks/devices.py
"""

import tempfile

import keras
from rich.console import Console
from rich.table import Table

from keras_llm import checkpoints, corpora, serving, tasks, training

CLASSES = ("negative", "positive")
FILES = {
    "32 bits": {},
    "8 bits": {"int8": True},
    "8 bits, 32 tokens": {"int8": True, "sequence_lengths": [32]},
}
FIGURES = ("accuracy", "accuracy_loss", "agreement", "max_difference", "mebibytes", "milliseconds")


def fine_tuned(train):
    keras.utils.set_random_seed(0)
    pretrained = checkpoints.load_hugging_face("sentence-transformers/all-MiniLM-L6-v2")
    model = tasks.TextClassifier(*pretrained, CLASSES, sequence_length=64)
    training.freeze(model, num_blocks=3)
    steps = -(-len(train[0]) // 32)
    model.compile(training.AdamW(training.WarmupLinearDecay(1e-4, steps)))
    model.fit(*train, batch_size=32, seed=0, verbose=2)
    return model


def main():
    train, _, test = corpora.load("movie_snippets").split()
    model = fine_tuned(train.labelled("label", CLASSES))
    examples = test.labelled("label", CLASSES)
    with tempfile.TemporaryDirectory() as place:
        reports = [
            serving.check_litert(
                serving.export_litert(model, f"{place}/{name}", **options), model, *examples
            )
            for name, options in FILES.items()
        ]
    table = Table("", *FILES, title=f"{len(examples[0])} snippets")
    for figure in FIGURES:
        table.add_row(figure, *(f"{report[figure]:.4g}" for report in reports))
    Console().print(table)


if __name__ == "__main__":
    main()
