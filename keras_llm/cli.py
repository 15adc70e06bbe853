"""The command line: `keras-llm demo` and `keras-llm data`."""

import contextlib
import enum
import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from keras_llm import corpora

app = typer.Typer(
    help="Large language models from principles to practice, in Keras 3 and TensorFlow.",
    no_args_is_help=True,
    add_completion=False,
)


class Language(enum.StrEnum):
    """The languages of the demo."""

    EN = "en"
    ZH = "zh"


@app.command()
def demo(
    language: Annotated[Language, typer.Option(help="Language of the texts.")] = Language.EN,
    folder: Annotated[Path, typer.Option(help="Where all results go.")] = Path("runs/demo"),
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
):
    """Pretrain BERT on raw text, fine-tune it on reviews, export it: about five minutes."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    from keras_llm import demo  # here, so that `--help` does not wait for TensorFlow

    with _plain_errors():
        demo.run(language.value, folder, seed)


@app.command()
def data(
    name: Annotated[str | None, typer.Argument(help="A data set, to see its beginning.")] = None,
):
    """List the data sets, or show one."""
    with _plain_errors():
        if name is not None:
            return typer.echo(_describe(corpora.load(name)))
    table = Table("name", "documents", "language", "what it is")
    for name in corpora.available():
        corpus = corpora.load(name)
        count = f"{corpus.num_documents:,}" if corpus.num_documents else ""
        table.add_row(name, count, corpus.language, corpus.description)
    Console().print(table)


def _describe(corpus):
    """Returns what the data set is, and the beginning and the metadata of its first document."""
    first = next(iter(corpus))
    long = ("words", "questions")
    metadata = {name: value for name, value in first.metadata.items() if name not in long}
    return f"{corpus}\n\n{first.text[:400]} …\n{metadata}"


@contextlib.contextmanager
def _plain_errors():
    """Prints what went wrong without a traceback: the messages say what to do."""
    try:
        yield
    except (ValueError, OSError) as error:
        typer.secho(f"keras-llm: {error}", fg="red", err=True)
        raise typer.Exit(1) from error
