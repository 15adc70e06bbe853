"""The command line of `keras-llm`: a command for each of the functions `demo.run` and so on."""

import ast
import contextlib
import enum
import importlib
import json
import os
import sys
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

Columns = Annotated[
    list[str] | None,
    typer.Option(help="NAME=COLUMN, such as text=review, where columns have other names."),
]


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
    room = _room("demo")
    with _plain_errors():
        room.run(language.value, folder, seed)


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


@app.command()
def finetune(
    task: Annotated[
        str,
        typer.Argument(help="What to do: classify, compare, tag, answer, summarize, write, chat."),
    ],
    data: Annotated[
        str, typer.Option(help="Examples: .jsonl, .csv or .parquet, or the name of a data set.")
    ],
    model: Annotated[
        str,
        typer.Option(help="Folder or name on the Hugging Face Hub; or a size, tiny to xl: new."),
    ],
    out: Annotated[
        str | None, typer.Option(help="The run's folder.", show_default="runs/TASK")
    ] = None,
    validation: Annotated[
        str | None, typer.Option(help="Examples to choose the best epoch by.")
    ] = None,
    validation_share: Annotated[
        float, typer.Option(help="Share of the data to hold out instead.", min=0.0, max=1.0)
    ] = 0.1,
    column: Columns = None,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", help="NAME=VALUE, an argument of the task, such as pooling=mean."),
    ] = None,
    epochs: Annotated[int, typer.Option(help="The most passes over the data.", min=1)] = 3,
    batch_size: Annotated[int, typer.Option(help="Examples a step.", min=1)] = 32,
    learning_rate: Annotated[
        float | None, typer.Option(help="The highest.", show_default="5e-5, new models 5e-4")
    ] = None,
    layerwise_decay: Annotated[
        float, typer.Option(help="Factor of the learning rate from a block to the one below.")
    ] = 1.0,
    freeze: Annotated[
        int | None, typer.Option(help="Do not train the embeddings and as many blocks.")
    ] = None,
    patience: Annotated[
        int, typer.Option(help="Stop after as many epochs without improvement.", min=0)
    ] = 2,
    vocabulary_size: Annotated[int, typer.Option(help="Tokens of a new tokenizer.")] = 8000,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    export: Annotated[
        bool, typer.Option(help="Also write a model for TensorFlow Serving.")
    ] = False,
):
    """Train a model on your examples; the best epoch is kept, with its figures and curves."""
    options = locals()
    room = _room("finetune")
    with _plain_errors():
        options["out"] = out or f"runs/{task}"
        options["columns"] = dict(_pair(text) for text in options.pop("column") or ())
        settings = dict(_pair(text) for text in options.pop("setting") or ())
        options["settings"] = {name: _value(text) for name, text in settings.items()}
        room.run(room.Options(**options))


@app.command()
def evaluate(
    run: Annotated[str, typer.Argument(help="The folder of a run of `finetune`.")],
    data: Annotated[str, typer.Option(help="Examples, as for `finetune`.")],
    column: Columns = None,
    out: Annotated[str | None, typer.Option(help="A .json file for the figures.")] = None,
):
    """Measure the model of a run on other examples."""
    with _plain_errors():
        _room("finetune").evaluate(run, data, dict(_pair(text) for text in column or ()), out)


@app.command()
def chat(
    run: Annotated[str, typer.Argument(help="The folder of a run of `finetune chat`.")],
    temperature: Annotated[
        float, typer.Option(help="Less is more predictable, 0 the most probable.", min=0.0)
    ] = 0.7,
    top_k: Annotated[
        int | None, typer.Option(help="Draw from as many of the most probable tokens.", min=1)
    ] = None,
    top_p: Annotated[
        float, typer.Option(help="Draw from the most probable that have this probability together.")
    ] = 0.9,
    max_reply: Annotated[int | None, typer.Option(help="Tokens of a reply at most.", min=1)] = None,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
):
    """Talk with the model of a run. /forget begins anew, /quit or the end of input ends."""
    room = _room("finetune")
    # The end of input and Ctrl-C end it as /quit does.
    with _plain_errors(), contextlib.suppress(EOFError, KeyboardInterrupt):
        conversation = room.converse(run, temperature, top_k, top_p, max_reply, seed)
        for text in _typed():
            if text == "/forget":
                conversation.forget()
            elif text.startswith("/"):
                typer.secho(f"There is no {text}; there are /forget and /quit.", err=True)
            elif text:
                typer.echo(conversation.reply(text))


@app.command("export")
def export_model(
    model: Annotated[str, typer.Argument(help="A .keras file, or the folder of a run.")],
    to: Annotated[str, typer.Option(help="The model's folder, which gets a new version.")],
    warmup: Annotated[
        str | None, typer.Option(help="Requests: .jsonl, .csv or .parquet with the inputs.")
    ] = None,
    signature: Annotated[
        list[str] | None, typer.Option(help="One of the signatures to export; by default all.")
    ] = None,
    portable: Annotated[
        bool, typer.Option(help="Use core ops alone, for where TensorFlow Text is not.")
    ] = False,
):
    """Export a model for TensorFlow Serving: strings in, answers out."""
    with _plain_errors():
        room = _room("serving")
        chosen = signature or "auto"
        version = room.export_file(model, to, warmup, signatures=chosen, portable=portable)
        typer.echo(version)
        ops = ", ".join(room.needed_text_ops(version)) or "none"
        typer.echo(f"Ops of TensorFlow Text that it needs, which TF Serving 2.18 has: {ops}.")


@app.command()
def check_export(
    path: Annotated[str, typer.Argument(help="A version, or the model's folder: its last one.")],
    text: Annotated[
        list[str] | None, typer.Argument(help="Texts to ask; by default the warm-up requests.")
    ] = None,
):
    """Load an export as a server does, show what it has, ask it, compare its signatures."""
    with _plain_errors():
        for name, answers in _room("serving").check(path, text or None, verbose=True).items():
            typer.echo(f"{name}: {answers}")


@app.command()
def export_litert(
    model: Annotated[str, typer.Argument(help="A .keras file, or the folder of a run.")],
    to: Annotated[str, typer.Option(help="A new folder.")],
    int8: Annotated[bool, typer.Option("--int8", help="Store weights in 8 bits.")] = False,
    sequence_length: Annotated[
        list[int] | None,
        typer.Option(
            help="Tokens of a row, one of several: the file has a signature for each.",
            show_default="16, 32, 64, ... up to the model's",
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help="Labelled texts, as for `evaluate`, to compare file and model on."),
    ] = None,
    column: Columns = None,
):
    """Export a model for phones and other devices: one LiteRT file, its names and vocabulary."""
    with _plain_errors():
        room, columns = _room("serving"), dict(_pair(text) for text in column or ())
        task = room.load_model(model)
        folder = room.export_litert(task, to, sequence_lengths=sequence_length or None, int8=int8)
        for file in sorted(folder.iterdir()):
            typer.echo(file)
        if data is not None:
            multi_label = getattr(task, "multi_label", False)
            examples = _room("finetune").read_labelled(data, columns, multi_label)
            for name, figure in room.check_litert(folder, task, *examples).items():
                typer.echo(f"{name}: {figure:.4g}")


@app.command()
def demo_page(
    model: Annotated[str, typer.Option(help="A version, or the model's folder: its last one.")],
    port: Annotated[
        int | None, typer.Option(help="Where to listen.", show_default="the first free from 7860")
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen at; 0.0.0.0 lets other machines in.")
    ] = "127.0.0.1",
):
    """Show an export's answers on a page: labels and words, spans, texts. Ctrl-C ends it."""
    with _plain_errors():
        blocks = _room("serving").show_page(model, port, host)
        typer.echo(f"The page is at {blocks.local_url}")
        blocks.block_thread()


def _typed():
    """Streams the lines that people type, or that stand in a file, until /quit."""
    prompt = "> " if sys.stdin.isatty() else ""
    while (text := input(prompt).strip()) != "/quit":
        yield text


def _describe(corpus):
    """Returns what the data set is, and the beginning and the metadata of its first document."""
    first = next(iter(corpus))
    long = ("words", "questions")
    metadata = {name: value for name, value in first.metadata.items() if name not in long}
    return f"{corpus}\n\n{first.text[:400]} …\n{metadata}"


def _room(name):
    """Opens a room when a command needs it, so that `--help` does not wait for TensorFlow."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    return importlib.import_module(f"keras_llm.{name}")


def _pair(text):
    """Splits NAME=VALUE."""
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise ValueError(f"Expected NAME=VALUE, got {text!r}.")
    return name, value


def _value(text):
    """Reads a value as JSON or as Python writes it; what is neither is a string."""
    for parse in (json.loads, ast.literal_eval):
        with contextlib.suppress(ValueError, SyntaxError):
            return parse(text)
    return text


@contextlib.contextmanager
def _plain_errors():
    """Prints what went wrong without a traceback: the messages say what to do."""
    try:
        yield
    except (ValueError, OSError, ImportError) as error:
        typer.secho(f"keras-llm: {error}", fg="red", err=True)
        raise typer.Exit(1) from error
