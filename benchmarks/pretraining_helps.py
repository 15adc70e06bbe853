"""Does pretraining help? A classifier from a pretrained BERT, a new one, and the larger class.

Three seeds of the main job's plan: pretraining, fine-tuning and evaluation with other weights,
other masks and another order each time. Prints the accuracy on held-out reviews of each seed and
the mean with its standard error.

    python benchmarks/pretraining_helps.py [--language zh] [--folder runs/pretraining_helps]
"""

import argparse
import statistics
from pathlib import Path

from rich.console import Console
from rich.table import Table

from keras_llm import demo

FIGURES = {
    "pretrained": "sentiment_accuracy",
    "from scratch": "sentiment_accuracy_from_scratch",
    "larger class": "sentiment_majority_accuracy",
    "masked LM": "mlm_accuracy",
    "most frequent token": "mlm_unigram_accuracy",
    "masked LM, hidden only": "mlm_hidden_accuracy",
    "most frequent token, hidden only": "mlm_hidden_unigram_accuracy",
    "next sentence": "nsp_accuracy",
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--language", choices=sorted(demo.LANGUAGES), default="en")
    parser.add_argument("--folder", type=Path, default=Path("runs/pretraining_helps"))
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()

    reports = [
        demo.run(arguments.language, arguments.folder / f"{arguments.language}-{seed}", seed)
        for seed in range(arguments.seeds)
    ]
    table = Table("accuracy", *(f"seed {report['seed']}" for report in reports), "mean")
    for name, figure in FIGURES.items():
        values = [report[figure] for report in reports]
        error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
        table.add_row(
            name, *(f"{v:.1%}" for v in values), f"{statistics.mean(values):.1%} ± {error:.1%}"
        )
    Console().print(table)


if __name__ == "__main__":
    main()
