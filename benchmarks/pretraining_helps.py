"""Does pretraining help? A classifier from a pretrained BERT, a new one, and the larger class.

Three seeds of the main job: pretraining, fine-tuning and evaluation with other weights, other masks
and another order each time. Pretraining takes more steps, and fine-tuning more reviews, than the
demo has time for. Prints the accuracy on held-out reviews of each seed and the mean with its
standard error. Pretraining that was stopped goes on when the benchmark is started again.

    python benchmarks/pretraining_helps.py [--language en] [--epochs 32] [--reviews 10000]
"""

import argparse
import dataclasses
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
    parser.add_argument("--language", choices=sorted(demo.LANGUAGES), default="zh")
    parser.add_argument("--epochs", type=int, default=32, help="of 200 steps, in pretraining")
    parser.add_argument("--reviews", type=int, default=10_000, help="to fine-tune on, at most")
    parser.add_argument("--folder", type=Path, default=Path("runs/pretraining_helps"))
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()

    plan = dataclasses.replace(
        demo.Plan.for_language(arguments.language),
        epochs=arguments.epochs,
        reviews_at_most=arguments.reviews,
    )
    reports = [
        demo.run(arguments.language, arguments.folder / f"{arguments.language}-{seed}", seed, plan)
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
