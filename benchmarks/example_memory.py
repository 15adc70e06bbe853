"""Does the memory that example making takes grow with the corpus?

Repeats the State of the Union addresses to files of 10 MB and 200 MB, makes sentence pairs of each
in a fresh process, and prints its peak of resident memory, worker processes included. Importing
TensorFlow takes more for a moment than making pairs ever does, and would hide any growth; so the
peak is of samples taken every 20 ms while pairs are made. The 200 MB may take at most 10 % more
than the 10 MB. Linux only, for it reads /proc.

    python benchmarks/example_memory.py [--processes 2]
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from keras_llm import corpora
from keras_llm.objectives import write_pairs
from keras_llm.tokenizers import WordPieceTokenizer

SIZES = (10, 200)  # MB
TOLERANCE = 1.10


class PeakMemory(threading.Thread):
    """Samples the resident memory, in MB, of this process and of its children."""

    def __init__(self):
        super().__init__(daemon=True)
        self.peak = 0.0
        self.stopped = threading.Event()

    def run(self):
        """Samples until stopped."""
        while not self.stopped.wait(0.02):
            children = Path("/proc/self/task").glob("*/children")
            pids = ["self", *(pid for file in children for pid in file.read_text().split())]
            self.peak = max(self.peak, sum(map(self.resident, pids)))

    @staticmethod
    def resident(pid):
        """Resident memory of a process in MB, 0 when it has ended."""
        try:
            pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        except (OSError, IndexError):
            return 0.0
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def write_corpus(path, megabytes):
    """Repeats the addresses, each a document of its own, up to a size."""
    # A blank line would end a document.
    texts = [
        "\n".join(line for line in text.splitlines() if line.strip())
        for text in corpora.load("state_of_the_union").texts()
    ]
    with open(path, "w", encoding="utf-8") as file:
        written = 0
        while written < megabytes * 1_000_000:
            for text in texts:
                written += file.write(text + "\n\n")


def measure(path, tokenizer_folder, folder, processes):
    """Makes pairs; prints one line of JSON."""
    tokenizer = WordPieceTokenizer.load(tokenizer_folder)
    memory = PeakMemory()
    memory.start()
    start = time.perf_counter()
    manifest = write_pairs(
        corpora.from_files(path, language="en"), tokenizer, folder, processes=processes
    )
    seconds = time.perf_counter() - start
    memory.stopped.set()
    result = {
        "pairs": manifest["examples"],
        "tokens": manifest["tokens"],
        "seconds": seconds,
        "working": memory.peak,
        "ever": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
    }
    print(json.dumps(result))


def compare(processes):
    """Measures each size in a fresh process; says whether memory is flat."""
    columns = "text MB", "pairs", "pairs/s", "tokens/s", "peak MB", "peak with imports MB"
    table = Table(*columns, title=f"write_pairs with {processes} process(es)")
    peaks = []
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        WordPieceTokenizer.train(corpora.load("state_of_the_union")).save(folder / "tokenizer")
        for size in SIZES:
            text = folder / f"{size}.txt"
            write_corpus(text, size)
            command = [sys.executable, __file__, "--processes", str(processes), "--measure"]
            command += [text, folder / "tokenizer", folder / f"pairs-{size}"]
            output = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
            result = json.loads(output.splitlines()[-1])
            peaks.append(result["working"])
            table.add_row(
                str(size),
                f"{result['pairs']:,}",
                f"{result['pairs'] / result['seconds']:,.0f}",
                f"{result['tokens'] / result['seconds']:,.0f}",
                f"{result['working']:,.0f}",
                f"{result['ever']:,.0f}",
            )
    Console().print(table)
    ratio = peaks[1] / peaks[0]
    print(f"{SIZES[1]} MB takes {ratio:.3f} times the memory of {SIZES[0]} MB (limit {TOLERANCE}).")
    return ratio <= TOLERANCE


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(*arguments.measure, arguments.processes)
    elif not compare(arguments.processes):
        sys.exit(1)
