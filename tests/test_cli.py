import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import httpx2
import keras
import pytest
from served import classifier
from typer.testing import CliRunner

from keras_llm import cli, demo, finetune, serving
from keras_llm.cli import app


def keras_llm(*arguments):
    return CliRunner().invoke(app, arguments)


def test_data_lists_every_data_set():
    result = keras_llm("data")
    assert result.exit_code == 0
    for name in ("state_of_the_union", "movie_snippets", "peoples_daily_1998"):
        assert name[:12] in result.output


def test_data_shows_one():
    result = keras_llm("data", "state_of_the_union")
    assert result.exit_code == 0
    assert "public domain" in result.output
    assert "George Washington" in result.output


def test_an_unknown_name_is_one_line_and_no_traceback():
    result = keras_llm("data", "state_of_teh_union")
    assert result.exit_code == 1
    assert "Did you mean 'state_of_the_union' or 'state_of_the_union_qa'?" in result.output
    assert "Traceback" not in result.output


def test_demo_passes_its_options_on(monkeypatch, tmp_path):
    calls = []
    monkeypatch.setattr(demo, "run", lambda *arguments: calls.append(arguments))
    assert keras_llm("demo", "--language", "zh", "--folder", str(tmp_path), "--seed", "5")
    assert calls == [("zh", tmp_path, 5)]


@pytest.mark.parametrize("arguments", [["demo", "--language", "fr"], ["nothing"]])
def test_wrong_usage_is_said(arguments):
    assert keras_llm(*arguments).exit_code == 2


def test_finetune_passes_its_options_on(monkeypatch):
    calls = []
    monkeypatch.setattr(finetune, "run", calls.append)
    arguments = "finetune classify --data reviews.csv --model tiny --column text=review"
    arguments += " --set pooling=mean --set dropout=0 --set multi_label=True --freeze 1"
    arguments += " --layerwise-decay 0.8 --export"
    result = keras_llm(*arguments.split())
    assert result.exit_code == 0, result.output
    assert calls == [
        finetune.Options(
            "classify",
            data="reviews.csv",
            model="tiny",
            out="runs/classify",
            columns={"text": "review"},
            settings={"pooling": "mean", "dropout": 0, "multi_label": True},
            layerwise_decay=0.8,
            freeze=1,
            export=True,
        )
    ]


def test_evaluate_passes_its_options_on(monkeypatch):
    calls = []
    monkeypatch.setattr(finetune, "evaluate", lambda *arguments: calls.append(arguments))
    assert keras_llm("evaluate", "runs/reviews", "--data", "test.csv").exit_code == 0
    assert calls == [("runs/reviews", "test.csv", {}, None)]


class Echo:
    """A conversation that says what it was asked, and how much it remembers."""

    def __init__(self):
        self.turns = []

    def reply(self, text):
        if text == "interrupt":
            raise KeyboardInterrupt
        self.turns.append(text)
        return f"{text} {len(self.turns)}"

    def forget(self):
        self.turns.clear()


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("hello\n\n  who \n/forget\nhello\n", ["hello 1", "who 2", "hello 1"]),
        ("hello\n/quit\nhello\n", ["hello 1"]),
        ("hello\ninterrupt\nhello\n", ["hello 1"]),
        ("/stop\nhello", ["There is no /stop; there are /forget and /quit.", "hello 1"]),
        ("", []),
    ],
)
def test_chat_goes_on_until_it_is_ended(monkeypatch, typed, said):
    calls = []
    monkeypatch.setattr(finetune, "converse", lambda *options: calls.append(options) or Echo())
    arguments = "chat runs/chat --top-k 5 --seed 3"
    result = CliRunner().invoke(app, arguments.split(), input=typed)
    assert result.exit_code == 0, result.output
    assert result.output.splitlines() == said
    assert calls == [("runs/chat", 0.7, 5, 0.9, None, 3)]


def test_chat_prompts_people_alone(monkeypatch):
    prompts, lines = [], iter(["hello", "/quit"])
    monkeypatch.setattr(finetune, "converse", lambda *options: Echo())
    monkeypatch.setattr("sys.stdin", type("Terminal", (), {"isatty": lambda self: True})())
    monkeypatch.setattr("builtins.input", lambda prompt: prompts.append(prompt) or next(lines))
    cli.chat("runs/chat")
    assert prompts == ["> ", "> "]


def test_chat_needs_a_run():
    result = keras_llm("chat", "no/such/run")
    assert result.exit_code == 1
    assert "no/such/run is not the folder of a run" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--column", "review"], "Expected NAME=VALUE, got 'review'"),
        (["--column", "label=stars"], "no column 'text'"),
        (["--set", "poolin=mean"], "no settings ['poolin']"),
    ],
)
def test_errors_of_finetune_are_one_line(tmp_path, arguments, message):
    data = tmp_path / "reviews.csv"
    data.write_text("review,stars\nfine,good\n")
    given = ["--data", str(data), "--model", "tiny", "--out", str(tmp_path / "run"), *arguments]
    result = keras_llm("finetune", "classify", *given)
    assert result.exit_code == 1
    assert message in result.output
    assert "Traceback" not in result.output


def test_export_and_its_check(tmp_path, monkeypatch):
    keras.utils.set_random_seed(0)
    model = classifier()
    model.save(tmp_path / "model.keras")
    (tmp_path / "requests.jsonl").write_text('{"text": "a good film"}\n{"text": ""}\n')
    requests = str(tmp_path / "requests.jsonl")
    result = keras_llm("export", str(tmp_path), "--to", f"{tmp_path}/film", "--warmup", requests)
    first, second = result.output.splitlines()
    assert first == f"{tmp_path}/film/1"
    assert "FastWordpieceTokenizeWithOffsets, NormalizeUTF8." in second
    result = keras_llm("check-export", f"{tmp_path}/film")
    assert result.exit_code == 0
    for words in ("MiB", "NormalizeUTF8", "serving_default", "probabilities", "2 requests"):
        assert words in result.output
    names = model.predict(["a good film", ""], verbose=0)["label"].tolist()
    assert f"label: {names}" in result.output

    monkeypatch.setattr(serving, "check", lambda path, texts, verbose: {"label": texts})
    assert keras_llm("check-export", "film", "fine", "bad").output == "label: ['fine', 'bad']\n"


def test_export_for_devices_and_its_comparison(tmp_path):
    keras.utils.set_random_seed(0)
    classifier().save(tmp_path / "model.keras")
    data, folder = tmp_path / "reviews.csv", tmp_path / "phone"
    data.write_text("review,label\na good film,good\nthe film,good\n")
    arguments = ["export-litert", str(tmp_path), "--to", str(folder), "--sequence-length", "8"]
    result = keras_llm(*arguments, "--int8", "--data", str(data), "--column", "text=review")
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert lines[:2] == [f"{folder}/labels.txt", f"{folder}/model.tflite"]
    assert {"rows: 2", "agreement: 1", "accuracy_loss: 0"} <= set(lines)

    result = keras_llm(*arguments)
    assert result.exit_code == 1
    assert "not empty" in " ".join(result.output.split())


def test_export_needs_a_model_and_whole_requests(tmp_path):
    result = keras_llm("export", str(tmp_path), "--to", f"{tmp_path}/film")
    assert result.exit_code == 1
    assert "There is no model at" in result.output
    classifier().save(tmp_path / "model.keras")
    (tmp_path / "requests.jsonl").write_text('{"review": "a good film"}\n')
    requests = str(tmp_path / "requests.jsonl")
    result = keras_llm("export", str(tmp_path), "--to", f"{tmp_path}/film", "--warmup", requests)
    assert result.exit_code == 1
    assert "line 1: a request needs the text 'text'" in " ".join(result.output.split())
    assert not (tmp_path / "film").exists()


def test_demo_page_serves_until_it_is_interrupted(tmp_path):
    serving.export(classifier(), tmp_path / "film", signatures=[])
    code = "from keras_llm.cli import app; app()"
    command = [sys.executable, "-c", code, "demo-page", "--model", f"{tmp_path}/film"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        address = next(line.split()[-1] for line in process.stdout if "The page is at" in line)
        assert "film, version 1" in httpx2.get(address).text
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0


def test_demo_page_passes_its_options_on(monkeypatch):
    calls = []
    page = SimpleNamespace(local_url="http://localhost:80/", block_thread=lambda: calls.append("…"))
    monkeypatch.setattr(serving, "show_page", lambda *options: calls.append(options) or page)
    result = keras_llm("demo-page", "--model", "film", "--port", "80", "--host", "0.0.0.0")
    assert result.output == "The page is at http://localhost:80/\n"
    assert calls == [("film", 80, "0.0.0.0"), "…"]


def test_demo_page_needs_an_export(tmp_path):
    result = keras_llm("demo-page", "--model", str(tmp_path))
    assert result.exit_code == 1
    assert "There is no export at" in result.output
    assert "Traceback" not in result.output
