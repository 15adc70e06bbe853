import csv
import dataclasses
import json

import keras
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import tensorflow as tf

from keras_llm import corpora, finetune, serving, training
from keras_llm.checkpoints import save_hugging_face
from keras_llm.corpora.files import read_rows
from keras_llm.finetune import Options
from keras_llm.models import BertBackbone, GPT2Backbone, T5Backbone
from keras_llm.tasks import Summarizer, TextClassifier
from keras_llm.tokenizers import WordPieceTokenizer

WORDS = ["good", "bad", "film", "plot", "song", "book", "scene", "end", "start", "word"]
ROWS = [
    {"review": f"a {first} {second} {third}", "verdict": f"{first}, really"}
    for first in ("good", "bad")
    for second in WORDS[2:]
    for third in WORDS[2:6]
]
COLUMNS = {"text": "review", "label": "verdict"}
SMALL = {"num_layers": 1, "num_heads": 2, "hidden_dim": 16, "intermediate_dim": 32}


def write(path, rows):
    """Writes rows as the name of the file says."""
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif path.suffix == ".csv":
        with open(path, "w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture(autouse=True)
def one_replica(monkeypatch):
    """Runs are on one replica, which is faster to trace; `finished`, made before, is on two."""
    monkeypatch.setattr(training, "strategy", tf.distribute.get_strategy)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """A folder in the layout of Hugging Face, of a model that has learned nothing yet."""
    keras.utils.set_random_seed(0)
    tokenizer = WordPieceTokenizer.train([row["review"] for row in ROWS], 60)
    backbone = BertBackbone(60, **SMALL, max_sequence_length=16)
    folder = tmp_path_factory.mktemp("pretrained") / "bert"
    save_hugging_face(backbone, folder, tokenizer)
    return str(folder)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, pretrained):
    """A run with all options."""
    folder = tmp_path_factory.mktemp("run")
    options = Options(
        "classify",
        data=write(folder / "train.csv", ROWS[:24] + ROWS[32:56]),
        model=pretrained,
        out=str(folder / "run"),
        validation=write(folder / "validation.jsonl", ROWS[24:32] + ROWS[56:]),
        columns=COLUMNS,
        settings={"pooling": "mean", "class_weight": "balanced", "dropout": 0.0},
        epochs=30,
        batch_size=16,
        learning_rate=0.01,
        layerwise_decay=0.9,
        freeze=0,
        patience=4,
        seed=1,
        export=True,
    )
    return options, finetune.run(options), folder / "run"


def test_a_run_learns_and_says_what_it_is(finished):
    options, metrics, folder = finished
    assert metrics["accuracy"] == 1.0
    assert metrics["largest_class"] == 0.5
    assert metrics["classes"]["bad, really"] == pytest.approx(
        {"precision": 1.0, "recall": 1.0, "f1": 1.0, "support": 8}
    )
    assert json.loads((folder / "metrics.json").read_text()) == metrics
    config = json.loads((folder / "config.json").read_text())
    assert {name: config[name] for name in dataclasses.asdict(options)} == dataclasses.asdict(
        options
    )
    assert config["arguments"] == {"classes": ["bad, really", "good, really"]}
    assert (config["train_examples"], config["validation_examples"]) == (48, 16)
    assert config["versions"]["keras"] == keras.__version__
    assert (folder / "curves.png").stat().st_size > 10_000


def test_the_model_of_the_best_epoch_is_kept(finished):
    options, metrics, folder = finished
    with open(folder / "history.csv", newline="") as file:
        losses = [float(row["val_loss"]) for row in csv.DictReader(file)]
    best = metrics["best_epoch"]
    assert losses[best - 1] == min(losses)
    assert len(losses) in (best + options.patience, options.epochs)
    model = keras.models.load_model(folder / "model.keras")
    temperature = model.temperature_scaling.temperature
    assert float(temperature.numpy()) == pytest.approx(metrics["temperature"])
    temperature.assign(1.0)  # losses were measured before calibration
    rows = [row for _, row in read_rows(options.validation)]
    examples = [[row[name] for row in rows] for name in ("review", "verdict")]
    assert model.evaluate(*examples, verbose=0)["loss"] == pytest.approx(min(losses), rel=1e-4)


def test_options_reach_the_model(finished, pretrained):
    _, _, folder = finished
    model = keras.models.load_model(folder / "model.keras")
    assert (model.pooling, model.dropout) == ("mean", 0.0)
    assert not model.backbone.token_embedding.embeddings.trainable
    assert set(model.optimizer.rate_multipliers) == {0.9, 1.0}  # the embeddings' 0.81 are frozen


def test_the_export_answers_as_the_model_does(finished):
    _, _, folder = finished
    texts = ["a good film", "a bad end"]
    served = serving.check(folder / "export" / "1", texts)
    assert served["label"] == ["good, really", "bad, really"]
    expected = keras.models.load_model(folder / "model.keras").predict(texts, verbose=0)
    np.testing.assert_allclose(served["probabilities"], expected["probabilities"], atol=1e-5)


def test_evaluate_on_other_examples(finished, tmp_path):
    _, _, folder = finished
    rows = [{"text": row["review"], "verdict": row["verdict"]} for row in ROWS[:10]]
    data = write(tmp_path / "test.parquet", rows)
    metrics = finetune.evaluate(folder, data, {"text": "text"}, tmp_path / "figures.json")
    assert metrics["accuracy"] == 1.0
    assert metrics["largest_class"] == 1.0
    assert metrics["classes"]["good, really"]["support"] == 10
    assert json.loads((tmp_path / "figures.json").read_text()) == metrics


def test_a_new_model_of_several_labels_with_a_share_held_out(tmp_path, monkeypatch):
    monkeypatch.setattr(
        BertBackbone, "tiny", classmethod(lambda cls, size: cls(size, **SMALL, dropout=0.0))
    )
    rows = [{"text": row["review"], "label": f"{row['verdict'][:4]}|a"} for row in ROWS]
    rows[0]["label"] = ""
    options = Options(
        "classify",
        data=write(tmp_path / "rows.csv", rows),
        model="tiny",
        out=str(tmp_path / "run"),
        validation_share=0.2,
        settings={"multi_label": True, "sequence_length": 8},
        epochs=1,
        vocabulary_size=60,
    )
    metrics = finetune.run(options)
    assert {"loss", "accuracy", "f1", "temperature", "ece_before", "ece_after"} <= metrics.keys()
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["arguments"]["classes"] == ["a", "bad,", "good"]
    assert config["train_examples"] + config["validation_examples"] == 64
    assert 4 <= config["validation_examples"] <= 25
    model = keras.models.load_model(tmp_path / "run" / "model.keras")
    assert isinstance(model, TextClassifier)
    assert model.sequence_length == 8


TAGGED = [
    {"words": [name, "met", place], "tags": ["B-person", "O", "B-place"]}
    for name in ("Ada", "Max")
    for place in ("Rome", "Oslo", "Bonn", "Lima", "Bern", "Graz")
]
ASKED = [
    {"question": "Who came?", "context": f"{name} came {when}.", "answer": answer}
    for name in ("Ada", "Max")
    for when in ("late", "soon", "then", "now")
    for answer in (name, "")
]


def questions_of(rows):
    return [
        corpora.Question(
            row["question"],
            row["context"],
            (corpora.Answer(row["answer"], 0),) if row["answer"] else (),
            id=str(number),
        )
        for number, row in enumerate(rows)
    ]


def test_tagging_and_answering(tmp_path, pretrained):
    """The same options, whatever the task."""
    common = {"model": pretrained, "validation_share": 0.3, "batch_size": 4, "epochs": 2}
    tagged = write(tmp_path / "tagged.jsonl", TAGGED)
    metrics = finetune.run(Options("tag", tagged, out=str(tmp_path / "tag"), **common))
    assert {"loss", "accuracy", "precision", "recall", "f1"} <= metrics.keys()
    assert list(metrics["classes"]) == ["person", "place"]
    config = json.loads((tmp_path / "tag" / "config.json").read_text())
    assert config["arguments"] == {"labels": ["person", "place"]}

    sentences = [[row[name] for row in TAGGED] for name in ("words", "tags")]
    corpora.write_conll(tmp_path / "tagged.conll", *sentences)
    again = finetune.evaluate(tmp_path / "tag", str(tmp_path / "tagged.conll"))
    assert again["classes"]["place"]["support"] == 12

    asked = write(tmp_path / "asked.csv", ASKED)
    settings = {"sequence_length": 16, "stride": 4}
    options = Options("answer", asked, out=str(tmp_path / "answer"), settings=settings, **common)
    metrics = finetune.run(options)
    assert {"exact_match", "f1", "no_answer_exact_match", "na_threshold"} <= metrics.keys()
    model = keras.models.load_model(tmp_path / "answer" / "model.keras")
    assert model.na_threshold == pytest.approx(metrics["na_threshold"])
    corpora.write_squad(questions_of(ASKED), tmp_path / "asked.json")
    again = finetune.evaluate(tmp_path / "answer", str(tmp_path / "asked.json"))
    assert again == pytest.approx(finetune.evaluate(tmp_path / "answer", asked))


@pytest.fixture
def small_gpt2(monkeypatch):
    """The smallest size is smaller still."""
    tiny = classmethod(lambda cls, size: cls(size, **SMALL, max_sequence_length=24, dropout=0.0))
    monkeypatch.setattr(GPT2Backbone, "tiny", tiny)


def test_writing(tmp_path, small_gpt2):
    texts = write(tmp_path / "texts.csv", [{"review": "we the people " * n} for n in range(1, 60)])
    options = Options(
        "write",
        texts,
        model="tiny",
        out=str(tmp_path / "run"),
        columns={"text": "review"},
        settings={"sequence_length": 24},
        batch_size=4,
        learning_rate=0.03,
        vocabulary_size=268,
        epochs=3,
        export=True,
    )
    metrics = finetune.run(options)
    assert metrics["perplexity"] == pytest.approx(np.exp(metrics["loss"]))
    assert 1.0 < metrics["perplexity"] < metrics["unigram_perplexity"] < 5.0
    assert finetune.evaluate(tmp_path / "run", texts)["perplexity"] < 3.8
    (text,) = serving.check(tmp_path / "run" / "export" / "1", ["we the"])["text"]
    assert text.startswith("we the") and len(text) > 20
    with pytest.raises(ValueError, match="GPT2Backbone has no size 'base'; it has tiny, mini, "):
        finetune.run(dataclasses.replace(options, model="base", out=str(tmp_path / "other")))


def test_chatting(tmp_path, small_gpt2):
    said = [["hello", "hi"], ["who are you", "a bot", "bye", "see you"]]
    rows = [{"turns": json.dumps([*turns, str(n)])} for n in range(45) for turns in said]
    data = write(tmp_path / "dialogues.csv", rows)
    options = Options(
        "chat",
        data,
        model="tiny",
        out=str(tmp_path / "run"),
        validation=data,
        settings={"sequence_length": 24},
        batch_size=6,
        learning_rate=0.03,
        vocabulary_size=268,
        epochs=4,
    )
    metrics = finetune.run(options)
    assert metrics["perplexity"] == pytest.approx(np.exp(metrics["loss"]), rel=0.01)
    assert metrics["perplexity"] < 3 < metrics["unigram_perplexity"]
    chat = finetune.converse(tmp_path / "run", temperature=0, max_reply=8)
    assert chat.reply("hello") == "hi"
    drawn = finetune.converse(tmp_path / "run", top_k=5, seed=3).writer.sampler
    assert (drawn.temperature, drawn.k, drawn.p, drawn.seed) == (0.7, 5, 0.9, 3)
    with pytest.raises(ValueError, match="top_p=0 more than 0"):
        finetune.converse(tmp_path / "run", top_p=0)


def test_only_runs_that_learned_to_chat_converse(finished):
    with pytest.raises(ValueError, match=r"classify\. Train one: keras-llm finetune chat"):
        finetune.converse(finished[2])


@pytest.mark.parametrize(
    ("task", "row", "message"),
    [
        ("write", {"text": ""}, "line 1: the text is '', not a text"),
        ("chat", {"turns": ["hello"]}, "line 1: the turns are .*two texts at least"),
        ("chat", {"turns": '["hello", "there"'}, r"line 1: the turns are .*two texts at least"),
        ("chat", {"turns": "hello"}, "line 1: the turns are 'hello'"),
        ("chat", {"turns": ["hello", " "]}, "line 1: the turn is ' '"),
        ("tag", {"words": ["Ada", "met"], "tags": ["O"]}, r"line 1: .* 2 words and 1 tags"),
        ("tag", {"words": "", "tags": ""}, "line 1: .* 0 words and 0 tags"),
        ("answer", ASKED[0] | {"answer": "Bob"}, "line 1: the answer 'Bob' does not stand in"),
        ("answer", ASKED[0] | {"context": ""}, "line 1: the context is '', not a text"),
        ("answer", {"question": "Who?"}, "line 1: there is no column 'context'"),
    ],
)
def test_rows_of_other_tasks_that_cannot_be_used(tmp_path, task, row, message):
    with pytest.raises(ValueError, match=message):
        finetune.run(options(tmp_path, [row], task=task))


def test_summarize_with_a_new_t5(tmp_path, monkeypatch):
    monkeypatch.setattr(
        T5Backbone, "tiny", classmethod(lambda cls, size: cls(size, **SMALL, dropout=0.0))
    )
    rows = [{"text": f"{row['review']}. The end.", "summary": row["review"][2:]} for row in ROWS]
    metrics = finetune.run(
        Options(
            "summarize",
            data=write(tmp_path / "rows.csv", rows),
            model="tiny",
            out=str(tmp_path / "run"),
            validation_share=0.2,
            settings={"sequence_length": 16, "target_length": 8, "prefix": "in short: "},
            epochs=1,
            vocabulary_size=40,
        )
    )
    assert {"loss", "accuracy", "rouge1", "rouge2", "rougeL"} < metrics.keys()
    assert metrics["lead_rougeL"] > 0.5
    model = keras.models.load_model(tmp_path / "run" / "model.keras")
    assert isinstance(model, Summarizer)
    assert model.prefix == "in short: "
    rows = [{"article": row["text"], "title": row["summary"]} for row in rows[:4]]
    columns = {"text": "article", "summary": "title"}
    other = finetune.evaluate(tmp_path / "run", write(tmp_path / "test.jsonl", rows), columns)
    assert other.keys() == metrics.keys() - {"best_epoch"}
    with pytest.raises(ValueError, match="line 1: the summary is ''"):
        finetune.evaluate(
            tmp_path / "run", write(tmp_path / "bad.jsonl", [{"text": "a", "summary": ""}])
        )


def test_copies_are_held_out_together_and_a_seed_chooses_which():
    texts = [f"text {i % 50}" for i in range(100)]
    train, validation = finetune._split((texts, texts), 0.3, seed=0)
    assert train[0] == train[1]
    assert not set(train[0]) & set(validation[0])
    assert len(train[0]) + len(validation[0]) == 100
    assert 10 <= len(validation[0]) <= 50
    assert finetune._split((texts, texts), 0.3, seed=0)[1] == validation
    assert finetune._split((texts, texts), 0.3, seed=1)[1] != validation


def options(tmp_path, rows, **overrides):
    arguments = {
        "task": "classify",
        "data": write(tmp_path / "data.jsonl", rows),
        "model": "no/such/model/anywhere",
        "out": str(tmp_path / "run"),
    }
    return Options(**(arguments | overrides))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"review": "fine", "label": "good"}], r"line 1: there is no column 'text'.*'review'"),
        ([{"text": "fine", "verdict": "good"}], r"'verdict'.*--column label=COLUMN"),
        ([{"text": "fine", "label": "good"}, {"text": " ", "label": "good"}], "line 2: the text"),
        ([{"text": None, "label": "good"}], "line 1: the text is None"),
        ([{"text": 3, "label": "good"}], "line 1: the text is 3, not a text"),
        ([{"text": "fine", "label": ""}], "line 1: the label is missing"),
        ([{"text": "fine", "label": ["good"]}], "--set multi_label=true"),
        ([], "no rows"),
        ([{"text": "fine", "label": "good"}], "1 examples, too few"),
    ],
)
def test_rows_that_cannot_be_used_are_named_before_any_work(tmp_path, rows, message):
    with pytest.raises(ValueError, match=message):
        finetune.run(options(tmp_path, rows))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"task": "paint"}, "no task 'paint'"),
        ({"columns": {"texts": "text"}}, "nothing that is called"),
        ({"settings": {"pooled": "mean"}}, "no settings.*pooled.*'pooling'"),
        ({"settings": {"classes": ["a"]}}, "no settings.*classes"),
    ],
)
def test_options_that_there_are_not(tmp_path, overrides, message):
    rows = [{"text": "fine", "label": "good"}]
    with pytest.raises(ValueError, match=message):
        finetune.run(options(tmp_path, rows, **overrides))


def test_labels_that_differ_between_files(tmp_path, finished):
    rows = [{"text": "fine", "label": "good"}, {"text": "poor", "label": "bad"}]
    other = write(tmp_path / "other.jsonl", [{"text": "so so", "label": "Good"}])
    with pytest.raises(ValueError, match=r"other.jsonl has labels that .*data.jsonl.*\['Good'\]"):
        finetune.run(options(tmp_path, rows, validation=other))
    with pytest.raises(ValueError, match=r"train.csv does not have: \['Good'\].*'good, really'"):
        finetune.evaluate(finished[2], other, {"text": "text", "label": "label"})


def test_a_folder_that_is_in_use_and_files_that_are_missing(tmp_path, finished):
    before = sorted(path.name for path in finished[2].iterdir())
    with pytest.raises(FileExistsError, match="is there already"):
        finetune.run(dataclasses.replace(finished[0], epochs=1))
    assert sorted(path.name for path in finished[2].iterdir()) == before
    with pytest.raises(FileNotFoundError, match="Found no text"):
        finetune.run(options(tmp_path, [], data=str(tmp_path / "none.csv")))
    rows = [{"text": f"text {i}", "label": "ab"[i % 2]} for i in range(100)]
    with pytest.raises(FileNotFoundError, match="no folder no/such/model"):
        finetune.run(options(tmp_path, rows))


def test_pairs_of_texts_are_compared(tmp_path, pretrained):
    rows = [
        {"text": f"a {first} {noun}", "reply": f"a {other} {last}", "verdict": other}
        for first in ("good", "bad")
        for other in ("good", "bad")
        for noun in WORDS[2:]
        for last in WORDS[6:]
    ]
    run = options(
        tmp_path,
        rows,
        task="compare",
        model=pretrained,
        columns={"text_pair": "reply", "label": "verdict"},
        settings={"pooling": "mean", "dropout": 0.0},
        learning_rate=0.01,
        batch_size=8,
        epochs=6,
        patience=6,
    )
    metrics = finetune.run(run)
    assert metrics["accuracy"] == 1.0
    assert finetune.evaluate(run.out, run.data)["accuracy"] == 1.0
    write(tmp_path / "half.jsonl", [{**rows[0], "reply": " "}])
    with pytest.raises(ValueError, match="line 1: the text_pair is ' ', not a text"):
        finetune.evaluate(run.out, str(tmp_path / "half.jsonl"))


def test_a_data_set_by_its_name():
    examples = finetune.TASKS["classify"].read(
        "state_of_the_union", {"text": "text", "label": "party"}, {}
    )
    assert len(examples[0]) == len(examples[1]) == 233
    assert "Whig" in examples[1]


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        (lambda: GPT2Backbone(60, **SMALL, max_sequence_length=16), "GPT2Backbone; classify takes"),
        (lambda: BertBackbone(60, **SMALL, max_sequence_length=16), "has no tokenizer"),
    ],
)
def test_models_that_do_not_fit(tmp_path, backbone, message):
    save_hugging_face(backbone(), tmp_path / "model")
    rows = [{"text": f"text {i}", "label": "ab"[i % 2]} for i in range(100)]
    with pytest.raises(ValueError, match=message):
        finetune.run(options(tmp_path, rows, model=str(tmp_path / "model")))
