"""Fine-tuning from the command line: a task, a file of examples and a model become a run's folder.

Notable:

- a task is one entry of `TASKS`; every option means the same for all of them;
- examples are checked before anything is loaded or trained, and an error names file and line;
- what is kept is the model of the best epoch on examples that it was not trained on.
"""

import contextlib
import dataclasses
import inspect
import json
import math
import statistics
from collections.abc import Callable
from pathlib import Path

import keras
import keras_hub
import numpy as np
from rich.console import Console
from rich.table import Table

from keras_llm import corpora, serving, training
from keras_llm.checkpoints import load_hugging_face
from keras_llm.corpora.corpus import HashRange
from keras_llm.corpora.files import read_rows
from keras_llm.models import BertBackbone, GPT2Backbone, T5Backbone, mimetic_initialization
from keras_llm.models.decoder import Decoder
from keras_llm.models.encoder import EncoderBackbone
from keras_llm.models.encoder_decoder import EncoderDecoder
from keras_llm.storage import whole_file
from keras_llm.tasks import (
    Chat,
    QuestionAnswerer,
    Summarizer,
    TextClassifier,
    TextPairClassifier,
    TokenClassifier,
    language_model,
    lead_baseline,
    rouge_scores,
)
from keras_llm.tokenizers import BytePairTokenizer, UnigramTokenizer, WordPieceTokenizer

CONSOLE = Console(stderr=True)
SIZES = ("tiny", "mini", "small", "medium", "base", "large", "xl")


@dataclasses.dataclass(frozen=True)
class Options:
    """What a run does; `config.json` of its folder holds them.

    Args:
        task: String, one of `TASKS`.
        data: String, the examples to train on: a .jsonl, .csv or .parquet file, a folder or pattern
            of them, or the name of a data set or of a part of one, as `corpora.load` takes it.
        model: String, a folder or name as `checkpoints.load_hugging_face` takes it; or a size, one
            of `SIZES`: a new model, BERT, for texts GPT-2, for summaries T5, and a tokenizer that
            is trained on the data.
        out: String, the run's folder, new or empty.
        validation: String, the examples to choose the best epoch by, as `data`; or None: a share of
            `data`.
        validation_share: Float, that share.
        columns: Dict from what the task reads, such as "text" and "label", to the names of the
            columns, where these are others.
        settings: Dict of further arguments of the task's class and of its `fit`.
        epochs: Int, the most passes over the examples.
        batch_size: Int, examples a step, of all replicas together.
        learning_rate: Float, the highest; by default 5e-5, or 5e-4 for a new model.
        layerwise_decay: Float, see `training.layerwise_decay`. 1 is the same rate for all layers.
        freeze: Int, see `training.freeze`; None freezes nothing.
        patience: Int, epochs without a better validation loss after which training stops.
        vocabulary_size: Int, tokens of a new tokenizer.
        seed: Int, of everything random.
        export: Bool, whether a model for TensorFlow Serving is written too.

    Example:
        >>> Options("classify", data="reviews.csv", model="tiny", out="runs/reviews").epochs
        3
    """

    task: str
    data: str
    model: str
    out: str
    validation: str | None = None
    validation_share: float = 0.1
    columns: dict = dataclasses.field(default_factory=dict)
    settings: dict = dataclasses.field(default_factory=dict)
    epochs: int = 3
    batch_size: int = 32
    learning_rate: float | None = None
    layerwise_decay: float = 1.0
    freeze: int | None = None
    patience: int = 2
    vocabulary_size: int = 8000
    seed: int = 0
    export: bool = False


@dataclasses.dataclass(frozen=True)
class Kind:
    """What the commands must know of a task.

    Args:
        task: Class of `keras_llm.tasks`, or a function that builds a model, of `backbone`,
            `tokenizer` and other arguments.
        columns: Tuple of str, what a row has.
        read: Function of data, names of the columns by `columns`, and settings. Returns the
            examples: a tuple of lists, the first arguments of the task's `fit`.
        backbone: Class of the models that the task takes.
        new: Pair of the class of a new model, with methods by the names of sizes, and that of its
            tokenizer.
        texts: Function of examples. Returns the texts that a new tokenizer is trained on.
        group: Function of the first of an example's values. Examples of one group are held out
            together.
        arguments: Function of examples and settings. Returns the arguments of the class that are
            lists of names in the examples, such as `classes`. Other examples may have no further
            names.
        fit_settings: Dict of the settings that are arguments of `fit`, with their defaults.
        rows: Function of model and examples. Returns how many rows `fit` makes of them; a step
            takes as many as the batch size says.
        tune: Function of model and validation examples. Sets what is not trained by gradients, and
            returns figures.
        measure: Function of model and examples. Returns figures: numbers, or dicts of them.

    Example:
        >>> TASKS["classify"].columns
        ('text', 'label')
    """

    task: type
    columns: tuple
    read: Callable
    backbone: type = EncoderBackbone
    new: tuple = (BertBackbone, WordPieceTokenizer)
    texts: Callable = lambda examples: examples[0]
    group: Callable = lambda first: str(first)  # a bare `str` would be documented as a class
    arguments: Callable = lambda examples, settings: {}
    fit_settings: dict = dataclasses.field(default_factory=dict)
    rows: Callable = lambda model, examples: len(examples[0])
    tune: Callable = lambda model, examples: {}
    measure: Callable = lambda model, examples: model.evaluate(*examples, verbose=0)


def run(options):
    """Fine-tunes a model and writes all that is made to a folder.

    The folder receives `config.json`, `history.csv`, `curves.png`, `metrics.json`, the model of the
    best epoch as `model.keras`, and `export/1/` if asked for.

    Args:
        options: `Options`.

    Returns:
        The figures on the validation examples, a dict, as in `metrics.json`.

    Raises:
        ValueError: no such task, column or setting; a row without text or label; labels of the
            validation that the training does not have; a model that does not fit the task.
        FileExistsError: the folder is not empty.
        FileNotFoundError: there is no such file or model.

    Example:
        >>> run(Options("paint", data="reviews.csv", model="tiny", out="runs/reviews"))
        Traceback (most recent call last):
        ValueError: There is no task 'paint'. There are: classify, compare, tag,
        answer, summarize, write, chat.
    """
    kind = _kind(options.task)
    folder = Path(options.out)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} is there already. Choose another folder, or delete it.")
    _check_settings(kind, options.settings)
    train, validation, arguments = _examples(kind, options)
    CONSOLE.print(f"{len(train[0]):,} examples to train on, {len(validation[0]):,} to validate")

    keras.utils.set_random_seed(options.seed)
    with training.strategy().scope():
        model = _build(kind, options, train, arguments)
    folder.mkdir(parents=True, exist_ok=True)
    config = dataclasses.asdict(options) | {
        "arguments": arguments,
        "train_examples": len(train[0]),
        "validation_examples": len(validation[0]),
        "versions": training.versions(),
    }
    training.write_json(folder / "config.json", config)

    _fit(kind, options, model, train, validation, folder)
    history = training.read_history(folder / "history.csv")
    training.plot_curves(history, folder / "curves.png", title=options.task)
    metrics = {
        "best_epoch": 1 + min(range(len(history["loss"])), key=history["val_loss"].__getitem__),
        **kind.tune(model, validation),
        **kind.measure(model, validation),
    }
    with whole_file(folder / "model.keras") as partial:
        model.save(partial)
    training.write_json(folder / "metrics.json", metrics)
    if options.export:
        serving.export(model, folder / "export")
    _show(metrics, f"{options.task}: {len(validation[0]):,} examples to validate")
    for path in sorted(folder.iterdir()):
        CONSOLE.print(f"  {path}", highlight=False)
    return metrics


def evaluate(folder, data, columns=None, out=None):
    """Measures the model of a run on other examples.

    Args:
        folder: Path of a run's folder.
        data: String, the examples, as `Options.data`.
        columns: Dict as `Options.columns`; by default the run's.
        out: Path of a JSON file for the figures, or None.

    Returns:
        The figures, a dict.

    Raises:
        ValueError: as `run`; labels that the model does not know.
        FileNotFoundError: there is no such run or file.

    Example:
        >>> evaluate("no/such/run", "reviews.csv")
        Traceback (most recent call last):
        FileNotFoundError: no/such/run is not the folder of a run: it has no config.json.
    """
    folder, config = Path(folder), _config(folder)
    kind = _kind(config["task"])
    examples = _read(kind, data, config["columns"] | (columns or {}), config["settings"])
    names = kind.arguments(examples, config["settings"])
    _check_classes(config["arguments"], names, config["data"], data)
    with training.strategy().scope():
        model = keras.models.load_model(folder / "model.keras")
    metrics = kind.measure(model, examples)
    if out is not None:
        training.write_json(out, metrics)
    _show(metrics, f"{config['task']}: {len(examples[0]):,} examples of {data}")
    return metrics


def read_labelled(data, columns=None, multi_label=False):
    """Reads texts and labels as the task "classify" does.

    Args:
        data: String, as `Options.data`.
        columns: Dict, as `Options.columns`.
        multi_label: Bool, whether a text has any number of labels.

    Returns:
        A pair of lists: texts, str, and labels, str or with `multi_label` tuples of str.

    Raises:
        ValueError: no rows, no such column, or a row without text or label.
        FileNotFoundError: there is no such file.

    Example:
        >>> read_labelled("no/such/reviews.csv")
        Traceback (most recent call last):
        FileNotFoundError: Found no text at 'no/such/reviews.csv'. Pass a file, ...
    """
    return _read(TASKS["classify"], data, columns or {}, {"multi_label": multi_label})


def converse(folder, temperature=0.7, top_k=None, top_p=0.9, max_reply=None, seed=0):
    """Begins a conversation with the model of a run of the task "chat".

    Args:
        folder: Path of the run's folder.
        temperature: Float. 1 draws from the model's probabilities, less prefers the probable
            tokens, and 0 always takes the most probable.
        top_k: Int, how many of the most probable tokens to draw from; None: all.
        top_p: Float in (0, 1], to draw from the most probable tokens that have this probability
            together ("The Curious Case of Neural Text Degeneration", Holtzman et al., 2020).
        max_reply: Int, as in `tasks.Chat`.
        seed: Int, another seed draws other replies.

    Returns:
        A `tasks.Chat`.

    Raises:
        ValueError: the run is of another task; a number that is out of its range.
        FileNotFoundError: there is no such run.

    Example:
        >>> converse("no/such/run")
        Traceback (most recent call last):
        FileNotFoundError: no/such/run is not the folder of a run: it has no config.json.
    """
    task = _config(folder)["task"]
    if task != "chat":
        raise ValueError(f"The run {folder} learned to {task}. Train one: keras-llm finetune chat.")
    if temperature < 0 or not 0 < top_p <= 1 or (top_k is not None and top_k < 1):
        raise ValueError(
            f"temperature={temperature} must be at least 0, top_p={top_p} more than 0 and at most "
            f"1, top_k={top_k} at least 1."
        )
    model = keras.models.load_model(Path(folder) / "model.keras")
    model.sampler = keras_hub.samplers.GreedySampler()
    if temperature > 0:
        k = None if top_k is None else min(top_k, model.backbone.vocabulary_size)
        model.sampler = keras_hub.samplers.TopPSampler(top_p, k, seed, temperature=temperature)
    return Chat(model, max_reply)


def _config(folder):
    """Reads what a run was."""
    path = Path(folder) / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{folder} is not the folder of a run: it has no config.json.")
    return json.loads(path.read_text(encoding="utf-8"))


def _kind(task):
    if task not in TASKS:
        raise ValueError(f"There is no task {task!r}. There are: {', '.join(TASKS)}.")
    return TASKS[task]


def _check_settings(kind, settings):
    """Raises ValueError for a setting that neither the task's class nor its `fit` takes."""
    known = {
        name
        for name, parameter in inspect.signature(kind.task).parameters.items()
        if parameter.default is not parameter.empty
    }
    unknown = settings.keys() - known - kind.fit_settings.keys()
    if unknown:
        raise ValueError(
            f"{kind.task.__name__} has no settings {sorted(unknown)}. It has "
            f"{sorted(known | set(kind.fit_settings))}."
        )


# === Examples ===


def _examples(kind, options):
    """Returns the examples to train and to validate on, and what they say of the model."""
    examples = _read(kind, options.data, options.columns, options.settings)
    arguments = kind.arguments(examples, options.settings)
    if options.validation is not None:
        validation = _read(kind, options.validation, options.columns, options.settings)
        names = kind.arguments(validation, options.settings)
        _check_classes(arguments, names, options.data, options.validation)
        return examples, validation, arguments
    train, validation = _split(examples, options.validation_share, options.seed, kind.group)
    if not train[0] or not validation[0]:
        raise ValueError(
            f"{options.data} has {len(examples[0])} examples, too few to hold out a share of "
            f"{options.validation_share}. Pass a file for validation, or another share."
        )
    return train, validation, arguments


def _read(kind, data, columns, settings):
    """Reads the examples of a file or a data set."""
    if unknown := columns.keys() - set(kind.columns):
        raise ValueError(
            f"There is nothing that is called {sorted(unknown)} in this task; it reads "
            f"{', '.join(kind.columns)}."
        )
    examples = kind.read(data, {name: columns.get(name, name) for name in kind.columns}, settings)
    if not examples[0]:
        raise ValueError(f"{data} has no rows.")
    return examples


def _split(examples, share, seed, group=str):
    """Holds out a share, chosen by a hash of the group: copies are on the same side."""
    held_out = HashRange(seed, 0.0, share)
    is_held_out = [held_out.contains(group(first), depth=0) for first in examples[0]]
    return tuple(
        tuple(
            [value for value, out in zip(column, is_held_out, strict=True) if out is wanted]
            for column in examples
        )
        for wanted in (False, True)
    )


def _check_classes(arguments, others, data, other):
    """Raises ValueError where other examples have classes that the model is not built for."""
    for argument, names in others.items():
        known = arguments[argument]
        if unknown := sorted(set(names) - set(known)):
            raise ValueError(
                f"{other} has labels that {data} does not have: {unknown[:10]}. The model knows "
                f"{known[:20]}. Give the same labels the same names in both."
            )


def _is_data_set(data):
    return data.partition("[")[0] in corpora.available()


def _rows(data, columns):
    """Yields where a row stands and its columns by the names that the task has for them."""
    if _is_data_set(data):
        documents = corpora.load(data)
        rows = ((f"{d.id}", {"text": d.text, **d.metadata}) for d in documents)
    else:
        rows = read_rows(data)
    for place, row in rows:
        for name, column in columns.items():
            if column not in row:
                raise ValueError(
                    f"{place}: there is no column {column!r} for the {name}; the columns are "
                    f"{list(row)}. Say which one it is: --column {name}=COLUMN."
                )
        yield place, {name: row[column] for name, column in columns.items()}


def _text(place, name, value):
    """Returns a text, or says where it is missing."""
    if not isinstance(value, str) or not value.strip():
        raise ValueError(
            f"{place}: the {name} is {value!r:.50}, not a text. Fill it in, or delete the row."
        )
    return value


# === Models ===


def _build(kind, options, train, arguments):
    """Builds and compiles the model in the current scope."""
    backbone, tokenizer = _load(kind, options, train)
    settings = {k: v for k, v in options.settings.items() if k not in kind.fit_settings}
    model = kind.task(backbone, tokenizer, **arguments, **settings)
    if options.freeze is not None:
        training.freeze(model, options.freeze)
    steps = math.ceil(kind.rows(model, train) / options.batch_size) * options.epochs
    rate = options.learning_rate or (5e-4 if options.model in SIZES else 5e-5)
    multipliers = None
    if options.layerwise_decay != 1.0:
        multipliers = training.layerwise_decay(model, options.layerwise_decay)
    schedule = training.WarmupLinearDecay(rate, steps)
    model.compile(training.AdamW(schedule, rate_multipliers=multipliers))
    return model


def _load(kind, options, train):
    """Returns the backbone and its tokenizer, pretrained or new."""
    if options.model in SIZES:
        backbone_cls, tokenizer_cls = kind.new
        build = getattr(backbone_cls, options.model, None)
        if build is None:
            sizes = [size for size in SIZES if hasattr(backbone_cls, size)]
            raise ValueError(
                f"{backbone_cls.__name__} has no size {options.model!r}; it has {', '.join(sizes)}."
            )
        tokenizer = tokenizer_cls.train(kind.texts(train), options.vocabulary_size)
        backbone = build(tokenizer.vocabulary_size())
        if isinstance(backbone, BertBackbone | T5Backbone):
            mimetic_initialization(backbone, options.seed)
        return backbone, tokenizer
    backbone, tokenizer = load_hugging_face(options.model)
    if not isinstance(backbone, kind.backbone):
        raise ValueError(
            f"{options.model} is a {type(backbone).__name__}; {options.task} takes models that are "
            f"a {kind.backbone.__name__}."
        )
    if tokenizer is None:
        raise ValueError(f"{options.model} has no tokenizer. Put its files into the folder.")
    return backbone, tokenizer


def _fit(kind, options, model, train, validation, folder):
    """Trains, and leaves the model as it was after its best epoch."""
    recorders = [
        keras.callbacks.CSVLogger(folder / "history.csv"),
        keras.callbacks.EarlyStopping(patience=options.patience, restore_best_weights=True),
    ]
    model.fit(
        *train,
        batch_size=options.batch_size,
        epochs=options.epochs,
        validation_data=validation,
        seed=options.seed,
        callbacks=recorders,
        **{k: options.settings.get(k, default) for k, default in kind.fit_settings.items()},
    )


def _show(metrics, title):
    """Prints the figures, and those of classes below."""
    tables = {title: {name: {"": v} for name, v in metrics.items() if not isinstance(v, dict)}}
    tables |= {name: value for name, value in metrics.items() if isinstance(value, dict)}
    for title, rows in tables.items():
        headings = list(next(iter(rows.values())))
        table = Table(title=title, show_header=any(headings))
        table.add_column("")
        for heading in headings:
            table.add_column(heading, justify="right")
        for name, values in rows.items():
            table.add_row(name, *(f"{v:.4g}" for v in values.values()))
        CONSOLE.print(table)


# === Tasks ===


def _read_labels(data, columns, settings):
    """Reads texts, or pairs, and labels; several are a list, or in a .csv file `one|another`."""
    texts, labels = [], []
    for place, row in _rows(data, columns):
        label = row.pop("label")
        read = tuple(_text(place, name, value) for name, value in row.items())
        texts.append(read if len(read) > 1 else read[0])
        if settings.get("multi_label"):
            names = label.split("|") if isinstance(label, str) else label or ()
            labels.append(tuple(str(name) for name in names if name != ""))
        elif isinstance(label, list):
            raise ValueError(
                f"{place}: the label is a list, {label!r:.50}. If texts have several labels, say "
                "so: --set multi_label=true."
            )
        elif label is None or label == "":
            raise ValueError(f"{place}: the label is missing. Fill it in, or delete the row.")
        else:
            labels.append(str(label))
    return texts, labels


def _classes(examples, settings):
    """Returns the names of the classes, in the order of the alphabet."""
    labels = examples[1]
    return {"classes": sorted({n for label in labels for n in _tuple(label)})}


def _tuple(label):
    return label if isinstance(label, tuple) else (label,)


def _measure_classes(model, examples):
    """Measures a classifier, beside always naming the largest class."""
    texts, labels = examples
    figures = model.evaluate(texts, labels, verbose=0)
    if not model.multi_label:
        figures["largest_class"] = max(map(labels.count, set(labels))) / len(labels)
    return figures | {"classes": model.report(texts, labels, verbose=0)}


def _read_tags(data, columns, settings):
    """Reads sentences and a tag for each word: CoNLL columns, or rows of lists."""
    if _is_data_set(data):
        return corpora.named_entities(corpora.load(data))
    if Path(data).name.removesuffix(".gz").endswith((".conll", ".conllu", ".bio", ".tsv")):
        return corpora.read_conll(data)
    sentences, tags = [], []
    for place, row in _rows(data, columns):
        words, marks = (
            value.split() if isinstance(value, str) else value
            for value in (row["words"], row["tags"])
        )
        if not words or not marks or len(words) != len(marks):
            raise ValueError(
                f"{place}: there must be a tag for each word; got {len(words or ())} words and "
                f"{len(marks or ())} tags: lists, or strings with a space between."
            )
        sentences.append(words)
        tags.append(marks)
    return sentences, tags


def _classes_of_names(examples, settings):
    """Returns the classes in tags such as "B-person", or without a scheme the tags."""
    tags = {tag for row in examples[1] for tag in row}
    if settings.get("scheme", "BIO") is not None:
        tags = {tag[2:] for tag in tags if tag != "O"}
    return {"labels": sorted(tags)}


def _read_questions(data, columns, settings):
    """Reads questions: SQuAD's JSON, or rows, whose answer is "" where there is none."""
    if _is_data_set(data):
        corpus = corpora.load(data)
        if not hasattr(corpus, "questions"):
            raise ValueError(f"{data} has no questions.")
        return (list(corpus.questions()),)
    if ".json" in Path(data).suffixes:
        return (corpora.read_squad(data),)
    questions = []
    for place, row in _rows(data, columns):
        question, context = (_text(place, name, row[name]) for name in ("question", "context"))
        answer = row["answer"] or ""
        start = context.find(answer)
        if start < 0:
            raise ValueError(
                f"{place}: the answer {answer!r:.80} does not stand in the context. Copy it from "
                "there, letter by letter, or leave it empty where there is none."
            )
        answers = (corpora.Answer(answer, start),) if answer else ()
        questions.append(corpora.Question(question, context, answers, id=place))
    return (questions,)


def _tune_silence(model, validation):
    """Chooses when to give no answer, where that can be right."""
    (questions,) = validation
    if all(question.answers for question in questions):
        model.na_threshold = None
        return {}
    return {"na_threshold": model.tune_na_threshold(questions, verbose=0)}


def _read_summaries(data, columns, settings):
    """Reads texts and their summaries."""
    texts, summaries = [], []
    for place, row in _rows(data, columns):
        texts.append(_text(place, "text", row["text"]))
        summaries.append(_text(place, "summary", row["summary"]))
    return texts, summaries


def _measure_summaries(model, examples):
    """Measures a summarizer, beside first sentences that are told how long summaries are."""
    texts, summaries = examples
    figures = model.evaluate(texts, summaries, verbose=0)
    lead = lead_baseline(texts, round(statistics.fmean(map(len, summaries))))
    lead = rouge_scores(lead, summaries)
    return figures | {f"lead_{name}": score for name, score in lead.items()}


def _read_texts(data, columns, settings):
    """Reads texts."""
    return ([_text(place, "text", row["text"]) for place, row in _rows(data, columns)],)


def _read_dialogues(data, columns, settings):
    """Reads dialogues; in a .csv file their turns are a list as JSON writes it."""
    dialogues = []
    for place, row in _rows(data, columns):
        turns = row["turns"]
        if isinstance(turns, str) and turns.startswith("["):
            with contextlib.suppress(json.JSONDecodeError):
                turns = json.loads(turns)
        if not isinstance(turns, (list, tuple)) or len(turns) < 2:
            raise ValueError(
                f"{place}: the turns are {turns!r:.80}; they must be a list of what two said in "
                "turn, two texts at least."
            )
        dialogues.append([_text(place, "turn", turn) for turn in turns])
    return (dialogues,)


def _measure_texts(model, examples):
    """Measures a language model, beside the best that takes no notice of what stands before."""
    (texts,) = examples
    score = model.score(texts)
    return {
        "loss": math.log(score.perplexity),
        "perplexity": score.perplexity,
        "bits_per_byte": score.bits_per_byte,
        "unigram_perplexity": _unigram_perplexity(ids[1:] for ids in model.frame(texts)),
    }


def _measure_replies(model, examples):
    """Measures replies, beside the best that takes no notice of what was said."""
    (dialogues,) = examples
    replies = (model.frame([turn])[0][1:] for turns in dialogues for turn in turns[1:])
    figures = model.evaluate(dialogues, verbose=0)
    return figures | {"unigram_perplexity": _unigram_perplexity(replies)}


def _unigram_perplexity(sequences):
    """Returns the perplexity of tokens to who knows how frequent each is, and nothing else."""
    counts = np.bincount(np.concatenate(list(sequences)))
    shares = counts[counts > 0] / counts.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


_CLASSIFY = Kind(
    TextClassifier,
    columns=("text", "label"),
    read=_read_labels,
    arguments=_classes,
    fit_settings={"class_weight": None},
    tune=lambda model, validation: model.calibrate(*validation, verbose=0),
    measure=_measure_classes,
)

TASKS = {
    "classify": _CLASSIFY,
    "compare": dataclasses.replace(
        _CLASSIFY,
        task=TextPairClassifier,
        columns=("text", "text_pair", "label"),
        texts=lambda examples: [text for pair in examples[0] for text in pair],
        group=lambda pair: pair[0],
    ),
    "tag": Kind(
        TokenClassifier,
        columns=("words", "tags"),
        read=_read_tags,
        texts=lambda examples: [" ".join(words) for words in examples[0]],
        group=" ".join,
        arguments=_classes_of_names,
        measure=lambda model, examples: {
            **model.evaluate(*examples, verbose=0),
            "classes": model.report(*examples),
        },
    ),
    "answer": Kind(
        QuestionAnswerer,
        columns=("question", "context", "answer"),
        read=_read_questions,
        texts=lambda examples: [f"{q.question} {q.context}" for q in examples[0]],
        group=lambda question: question.context,
        tune=_tune_silence,
    ),
    "summarize": Kind(
        Summarizer,
        columns=("text", "summary"),
        read=_read_summaries,
        backbone=EncoderDecoder,
        new=(T5Backbone, UnigramTokenizer),
        texts=lambda examples: examples[0] + examples[1],
        measure=_measure_summaries,
    ),
    "write": Kind(
        language_model,
        columns=("text",),
        read=_read_texts,
        backbone=Decoder,
        new=(GPT2Backbone, BytePairTokenizer),
        fit_settings={"packed": True},
        rows=lambda model, examples: model.num_rows(*examples, packed=True),
        measure=_measure_texts,
    ),
    "chat": Kind(
        language_model,
        columns=("turns",),
        read=_read_dialogues,
        backbone=Decoder,
        new=(GPT2Backbone, BytePairTokenizer),
        texts=lambda examples: [turn for turns in examples[0] for turn in turns],
        group=lambda turns: turns[0],
        rows=lambda model, examples: model.num_rows(*examples),
        measure=_measure_replies,
    ),
}
