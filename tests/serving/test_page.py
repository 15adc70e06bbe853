"""The page of each kind of export; that of a classifier in Chromium."""

import itertools
import re
import sys
from html import unescape

import gradio
import gradio_client
import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from playwright.sync_api import expect
from served import TASKS, classifier

from keras_llm import serving
from keras_llm.serving.exported import Export

# Gradio 6.31 uses what pandas 3 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:gradio.queueing")

TIMEOUT = 120_000  # milliseconds; the machine may be busy
TEXT = "A good film, 坏电影！ <b>&"


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """Exports a model with few signatures and serves its page; all are closed in the end."""
    pages = []

    def show(model, *signatures, warmup=()):
        path = tmp_path_factory.mktemp("exports") / "film"
        version = serving.export(model, path, signatures=signatures, warmup=warmup)
        pages.append(serving.show_page(path))
        return version, pages[-1]

    yield show
    for page in pages:
        page.close(verbose=False)


@pytest.fixture(scope="module")
def film(shown):
    """A classifier, its export with warm-up requests, and the page of that."""
    model = made("classifier")
    return model, *shown(model, "tokenize", warmup=["The film.", "who saw the film?"])


def made(name):
    keras.utils.set_random_seed(0)
    return TASKS[name]()


def asked(page, *values):
    """Asks a page as its button does: the last values of its outputs."""
    return submitted(page, *values).result()


def submitted(page, *values):
    client = gradio_client.Client(page.local_url, verbose=False, analytics_enabled=False)
    return client.submit(*values, api_name="/answer")


def text_of(drawn):
    return unescape(re.sub(r"<[^<>]*>", "", drawn))


def test_a_classifier_is_shown_with_names_words_and_tokens(film):
    model, _, page = film
    heading, scores, words, tokens = asked(page, TEXT)
    expected = model.predict([TEXT], verbose=0)
    assert text_of(heading) == expected["label"][0]
    assert scores["confidences"][0]["label"] == expected["label"][0]
    assert {score["label"] for score in scores["confidences"]} == {"差", "good"}
    confidences = sorted(score["confidence"] for score in scores["confidences"])
    np.testing.assert_allclose(confidences, np.sort(expected["probabilities"][0]), atol=1e-5)
    first = expected["probabilities"][0].argmax()
    without = model.predict([TEXT.replace(" film", "")], verbose=0)["probabilities"][0, first]
    change = expected["probabilities"][0, first] - without
    drawn = float(re.search(r'title="([^"]*)"[^>]*>film<', words).group(1))
    assert drawn == pytest.approx(change, abs=6e-4)
    drawn = re.findall(r'<span class="token">(.*?)<small>(\d+)</small>', tokens)
    tokenizer, ids = model.preprocessor.tokenizer, model.preprocessor([TEXT])["token_ids"][0]
    expected = [(tokenizer.id_to_token(int(number)), str(int(number))) for number in ids]
    assert [(unescape(token), number) for token, number in drawn] == expected


def test_of_two_texts_the_words_of_both_are_shown(shown):
    model = made("pair_classifier")
    _, page = shown(model)
    text, other = "who saw the film?", "a good film"
    heading, scores, words = asked(page, text, other)
    expected = model.predict([(text, other)], verbose=0)
    assert text_of(heading) == expected["label"][0]
    found = {score["label"]: score["confidence"] for score in scores["confidences"]}
    probabilities = expected["probabilities"][0]
    np.testing.assert_allclose([found["no"], found["yes"]], probabilities, atol=1e-5)
    assert "who saw the film?" in text_of(words) and "a good film" in text_of(words)


def test_several_labels_may_be_none(shown):
    model = classifier(multi_label=True, threshold=0.999)
    _, page = shown(model)
    heading, scores, _ = asked(page, "a good film")
    assert text_of(heading) == "no label"
    probabilities = model.predict(["a good film"], verbose=0)["probabilities"][0]
    found = {score["label"]: score["confidence"] for score in scores["confidences"]}
    np.testing.assert_allclose([found["差"], found["good"]], probabilities, atol=1e-5)


def test_spans_of_a_tagger_are_marked(shown):
    model = made("tagger")
    _, page = shown(model)
    drawn = asked(page, TEXT)
    entities = model.predict([TEXT], verbose=0)["entities"][0]
    assert entities
    marked = re.findall(r'<span class="word"[^>]*>(.*?)&nbsp;<small>(.*?)</small>', drawn)
    assert [(unescape(text), label) for text, label in marked] == [
        (TEXT[entity.start : entity.end], entity.label) for entity in entities
    ]


def test_an_answer_is_marked_in_its_passage(shown):
    model = made("answerer")
    _, page = shown(model)
    question, context = "who saw the film?", "the naïve film, 坏电影！"
    scores, drawn = asked(page, question, context)
    found = model.predict([question], [context], verbose=0)
    chances = {score["label"]: score["confidence"] for score in scores["confidences"]}
    silence = pytest.approx(found["no_answer_probability"][0], abs=1e-5)
    assert chances["no answer"] == silence
    assert found["answer"][0] in chances
    assert f">{found['answer'][0]}&nbsp;<small>score {found['score'][0]:.1f}<" in drawn


def test_embeddings_are_compared(shown):
    model = made("embedder")
    _, page = shown(model)
    others = ["坏电影！", "a good film", "who?"]
    table = asked(page, "a good film", "\n".join([*others, ""]))["data"]
    expected = model.similarity(["a good film"], others, verbose=0)[0]
    assert table[0] == ["a good film", 1.0]
    assert {text: score for text, score in table} == pytest.approx(
        dict(zip(others, expected, strict=True)), abs=1e-3
    )


def test_a_summary_is_written(shown):
    model = made("summarizer")
    version, page = shown(model)
    assert asked(page, "a good film") == model.predict(["a good film"], verbose=0)[0]
    pieces = Export(version).tokens
    assert list(pieces.values()) == model.preprocessor.tokenizer.get_vocabulary()


def test_a_language_model_writes_while_one_looks(shown):
    model = made("decoder")
    version, page = shown(model, "generate")
    job = submitted(page, "the film", 12, 0.8, 20, 0.9, 3)
    last = job.result()
    texts = job.outputs()
    assert len(texts) > 2
    for text, longer in itertools.pairwise(texts):
        assert longer.startswith(text.rstrip("\ufffd"))  # the first bytes of a character
    request = {"prompt": "the film", "max_new_tokens": 12, "temperature": 0.8, "top_k": 20}
    request |= {"top_p": 0.9, "seed": 3}
    export = Export(version)
    answer = export.ask({name: [value] for name, value in request.items()}, "generate")
    assert last == answer["text"][0]
    tokenizer = model.preprocessor.tokenizer
    for number, token in export.tokens.items():
        assert number in tokenizer.special_token_ids or token == tokenizer.decode([number])


@pytest.fixture
def opened(browser, film):
    """The page of the classifier, opened in Chromium, and all that is asked for elsewhere."""
    url = film[2].local_url
    wrong, own = [], []

    def only_from_the_page(route):
        if route.request.url.startswith((url, "data:", "blob:")):
            own.append(route.request.url)
            return route.continue_()
        wrong.append(route.request.url)
        return route.abort()

    with browser.new_context(viewport={"width": 1200, "height": 800}) as context:
        context.route("**/*", only_from_the_page)
        context.set_default_timeout(TIMEOUT)
        page = context.new_page()
        page.on("pageerror", lambda error: wrong.append(f"script: {error}"))
        page.goto(url)
        yield page
        assert own
        assert not wrong


def test_the_page_in_a_browser(opened, film, tmp_path):
    model, *_ = film
    expect(opened).to_have_title("film, version 1", timeout=TIMEOUT)
    opened.get_by_text("who saw the film?", exact=True).click()  # an example
    box = opened.get_by_label("text", exact=True)
    expect(box).to_have_value("who saw the film?", timeout=TIMEOUT)
    opened.screenshot(path=tmp_path / "before.png")
    box.fill(TEXT)
    opened.get_by_role("button", name="Classify").click()
    expected = model.predict([TEXT], verbose=0)
    opened.get_by_role("heading", name=expected["label"][0], exact=True).wait_for()
    body = opened.locator("body").inner_text()
    assert f"{expected['probabilities'].max():.0%}" in body
    assert "raises the probability of" in body
    words = opened.locator(".words .word")
    assert words.all_inner_texts() == ["A", "good", "film", *",坏电影！<b>&"]
    opened.screenshot(path=tmp_path / "after.png", full_page=True)
    before, after = (
        np.asarray(Image.open(tmp_path / name).convert("RGB")).reshape(-1, 3)
        for name in ("before.png", "after.png")
    )
    assert len(np.unique(after, axis=0)) > 100
    colored_before, colored_after = (
        np.count_nonzero(np.ptp(shot.astype(int), axis=1) > 60) for shot in (before, after)
    )
    assert colored_after > colored_before + 500  # the bars and the words


def test_without_a_text_the_page_says_so(opened):
    opened.get_by_role("button", name="Classify").click()
    opened.get_by_text("Type a text first.").wait_for()


def test_there_must_be_an_export(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no export at .* `keras-llm export`"):
        serving.page(tmp_path)


def test_what_the_page_cannot_show(tmp_path):
    module = tf.Module()
    strings = tf.TensorSpec([None], tf.string, "text")
    length = tf.function(lambda text: {"length": tf.strings.length(text)}, [strings])
    tf.saved_model.save(module, str(tmp_path / "1"), signatures=length)
    with pytest.raises(ValueError, match=r"1 answers length\. The page shows labels"):
        serving.page(tmp_path)


def test_an_export_must_have_the_signature_that_is_asked(tmp_path):
    module = tf.Module()
    length = tf.function(lambda: {"length": 1}, [])
    tf.saved_model.save(module, str(tmp_path / "1"), signatures={"length": length})
    with pytest.raises(ValueError, match=r"1 has no signature serving_default, .* it has length\."):
        serving.page(tmp_path)


def test_gradio_may_be_missing(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(ImportError, match=r"pip install 'keras-llm\[page\]'"):
        serving.page(tmp_path)


def test_a_page_is_blocks_that_tell_nobody(film):
    _, version, _ = film
    page = serving.page(version)
    assert isinstance(page, gradio.Blocks)
    assert not page.analytics_enabled
