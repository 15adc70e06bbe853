"""The parallel messages, against facts counted beforehand with another parser (polib)."""

import re
from collections import Counter

import pytest

from keras_llm import corpora
from keras_llm.corpora.jupyterlab import COMPONENTS, LANGUAGE_PACK, message_key

PLACEHOLDER = re.compile(r"%\d|\{\d*\}")


@pytest.fixture(scope="module")
def messages():
    return list(corpora.load("jupyterlab_en_zh"))


def test_messages_of_each_component(messages):
    assert Counter(message.metadata["component"] for message in messages) == {
        "jupyterlab": 1851,
        "jupyterlab_git": 448,
        "jupyterlab_lsp": 190,
        "jupyterlab_tour": 87,
        "notebook": 56,
        "jupyter_resource_usage": 48,
        "jupyter_collaboration": 45,
        "nbdime": 45,
        "spellchecker": 31,
        "jupytext": 30,
        "jupyterlab_spreadsheet_editor": 26,
        "jupyterlab_search_replace": 23,
        "jupyter_archive": 15,
        "dask_labextension": 14,
        "retrolab": 12,
        "jupyterlab_recents": 8,
        "jupyterlab_widgets": 5,
    }


def test_known_translations(messages):
    translations = {message.text: message.metadata["translation"] for message in messages}
    assert translations["Font Size"] == "字体大小"
    assert translations["Side-by-side left margin override."] == "并排显示左边距覆盖。"
    lines = "The font family used to render markdown.\nIf `null`, value from current theme is used."
    assert translations[lines] == (
        "用于渲染 Markdown 的字体集。\n如果值为 `null`，则沿用当前主题的值。"
    )
    assert sum("\n" in text for text in translations) == 61


def test_plural_entries_give_their_plural(messages):
    translations = {message.text: message.metadata["translation"] for message in messages}
    assert translations["Delete these %1 cells"] == "删除这 %1 个单元格"
    assert "Delete this cell" not in translations
    source = "".join(LANGUAGE_PACK.path(f"{name}.po").read_text("utf-8") for name in COMPONENTS)
    singulars = re.findall(r'^msgid "(.+)"\nmsgid_plural', source, flags=re.MULTILINE)
    assert len(singulars) == 45
    # One is written like its plural, two are also messages in their own right.
    assert {singular[:26] for singular in set(singulars) & translations.keys()} == {
        "Fully connected & initiali",
        "Fully connected, but %2/%3",
        "%2/%3 virtual document con",
    }


def test_both_sides_have_the_same_placeholders(messages):
    pairs = [
        (sorted(PLACEHOLDER.findall(text)), sorted(PLACEHOLDER.findall(translation)))
        for text, translation in ((m.text, m.metadata["translation"]) for m in messages)
    ]
    assert sum(english != [] for english, _ in pairs) == 284
    assert [pair for pair in pairs if pair[0] != pair[1]] == []


def test_every_translation_is_chinese_and_trimmed(messages):
    for message in messages:
        translation = message.metadata["translation"]
        assert translation == translation.strip()
        assert any("\u4e00" <= character <= "\u9fff" for character in translation)
    assert "Julia" not in {message.text for message in messages}


def test_the_core_comes_first_and_its_wording_stays(messages):
    assert messages[0].text == "Markdown viewer settings."
    (browser,) = [m for m in messages if message_key(m.text) == "filebrowser"]
    assert browser.metadata == {"translation": "文件浏览器", "component": "jupyterlab"}


def test_parts_share_no_message():
    def letters(part):
        return ["".join(filter(str.isalnum, text.lower())) for text in part.texts()]

    parts = [letters(part) for part in corpora.load("jupyterlab_en_zh").split()]
    assert [len(part) > 100 for part in parts] == [True] * 3
    assert sum(map(len, parts)) == len(set().union(*parts)) == 2_934


@pytest.mark.parametrize("other", ["open file", "Open File…", " Open\nfile...", "‘Open’ file!"])
def test_key_of_messages_that_say_the_same(other):
    assert message_key("Open File") == message_key(other)


@pytest.mark.parametrize("other", ["Open Files", "Open %1 File", "Reopen File"])
def test_key_of_messages_that_differ(other):
    assert message_key("Open File") != message_key(other)


def test_texts_and_translations_as_lists():
    texts, translations = corpora.load("jupyterlab_en_zh").labelled("translation")
    assert len(texts) == len(translations) == 2_934
    assert (texts[0], translations[0]) == ("Markdown viewer settings.", "Markdown 查看器设置。")
