import pytest
from typer.testing import CliRunner

from keras_llm import demo
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
