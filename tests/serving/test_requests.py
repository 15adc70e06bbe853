"""An export answers whatever it is asked, and each request as if it were the only one."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import psutil
import pytest
import tensorflow as tf
from served import TASKS

ODD = {
    "empty": b"",
    "spaces": " \t\r\n\u00a0\u3000 ".encode(),
    "control characters": b"a" + bytes(range(32)) + b"good \x7f",
    "zeros": b"\0" * 9,
    "invalid UTF-8": b"\xff\xfe good \xc3( film\xe2\x82",
    "lone surrogates": b"a \xed\xa0\x80 film \xed\xbf\xbf",
    "no characters": "\ufdd0\ufffe\U0010ffff film".encode(),
    "emoji": "👩‍👩‍👧‍👦🏳️‍🌈 good 🙂".encode(),
    "right to left": "\u202eשלום مرحبا\u202c film".encode(),
    "accents": ("a" + "\u0301" * 10_000 + " film").encode(),
    "a long word": b"film" * 25_000,
}
LONG = {
    "ordinary": "who saw the good film, 坏电影！ ".encode(),
    "without spaces": b"agoodfilmthenaive",
    "Chinese": "坏电影！看好戏".encode(),
    "unknown letters": "ⴰⵣⵓⵍ".encode(),
}
OPTIONS = {"max_new_tokens": 4, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "seed": 7}


class Served:
    """An export; each of its signatures is asked with a list of texts."""

    def __init__(self, version):
        self.functions = tf.saved_model.load(version).signatures
        self.signatures = sorted(set(self.functions) - {"tokenize"})
        self.main = "generate" if "generate" in self.functions else "serving_default"
        self.columns = list(self.specs("serving_default"))  # `text`, or `question` and `context`

    def specs(self, signature):
        return self.functions[signature].structured_input_signature[1]

    def ask(self, signature, texts):
        if signature == "tokens":
            answer = self.run(signature, self.run("tokenize", dict.fromkeys(self.columns, texts)))
            if "window_tags" in answer:  # a window has no words only where no text has any
                has_words = (answer["window_tags"] != b"").any(axis=1)
                answer = {name: values[has_words] for name, values in answer.items()}
            return answer
        if signature == "examples":
            inputs = {"examples": [self.example(text) for text in texts]}
        elif signature == "generate":
            options = {name: [value] * len(texts) for name, value in OPTIONS.items()}
            inputs = {"prompt": texts, **options}
        else:
            inputs = dict.fromkeys(self.columns, texts)
        return self.run(signature, inputs)

    def ask_each(self, signature, texts, each=map):
        return list(each(lambda text: self.ask(signature, [text]), texts))

    def run(self, signature, inputs):
        specs = self.specs(signature)
        inputs = {name: tf.constant(values, specs[name].dtype) for name, values in inputs.items()}
        outputs = self.functions[signature](**inputs)
        return {name: values.numpy() for name, values in outputs.items()}

    def example(self, text):
        feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=[text]))
        features = tf.train.Features(feature=dict.fromkeys(self.columns, feature))
        return tf.train.Example(features=features).SerializeToString()


@pytest.fixture(scope="module")
def served(exports):
    loaded = {}

    def get(task):
        if task not in loaded:
            loaded[task] = Served(exports(task)[1])
        return loaded[task]

    return get


def assert_same(together, alone):
    """Rows of a batch are those of its texts alone, which may be several each, and narrower."""
    for name, values in together.items():
        first = 0
        for answer in alone:
            expected = answer[name]
            rows = values[first : first + len(expected)]
            rows = rows[:, : expected.shape[1]] if expected.ndim == 2 else rows
            if values.dtype == object:
                assert rows.tolist() == expected.tolist(), name
            else:
                np.testing.assert_allclose(rows, expected, atol=1e-4, err_msg=name)
            first += len(expected)
        assert first == len(values), name


def assert_is_text(answer):
    """A server that answers in JSON needs strings in UTF-8."""
    for values in answer.values():
        if values.dtype == object:
            b"".join(values.ravel()).decode()


@pytest.mark.parametrize("task", TASKS)
def test_odd_texts_have_the_same_answer_in_a_batch(served, task):
    model = served(task)
    texts = [*ODD.values(), b"a good film"]
    for signature in model.signatures:
        alone = model.ask_each(signature, texts)
        together = model.ask(signature, texts)
        assert_same(together, alone)
        assert_is_text(together)


@pytest.mark.parametrize("task", TASKS)
def test_long_texts_have_the_same_answer_in_a_batch(served, task):
    model = served(task)
    # These two read all of a text, not its beginning only: a tenth of it, for that is linear.
    size = 100_000 if task in ("tagger", "answerer") else 1_000_000
    texts = [text * (size // len(text)) for text in LONG.values()] + [b"a good film"]
    alone = model.ask_each(model.main, texts)
    assert_same(model.ask(model.main, texts), alone)


@pytest.mark.parametrize("task", TASKS)
def test_many_at_once_have_the_same_answers_as_alone(served, task):
    model = served(task)
    words = ["good", "film", "坏电影", "naïve", "the", "who?"]
    texts = [f"{words[i % 6]} {words[i % 5]} {'a ' * (i % 23)}{i}".encode() for i in range(512)]
    alone = model.ask_each(model.main, texts)
    assert_same(model.ask(model.main, texts), alone)
    with ThreadPoolExecutor(16) as threads:
        at_once = model.ask_each(model.main, texts, threads.map)
    for answer, expected in zip(at_once, alone, strict=True):
        assert_same(answer, [expected])


@pytest.mark.parametrize("task", TASKS)
def test_no_texts_have_no_answers(served, task):
    model = served(task)
    for signature in model.signatures:
        nothing, one = model.ask(signature, []), model.ask(signature, [b"a good film"])
        for name, values in one.items():
            assert nothing[name].dtype == values.dtype
            assert nothing[name].ndim == values.ndim
            assert len(nothing[name]) == 0, (signature, name)


def test_what_is_no_example_is_named(served):
    model = served("classifier")
    with pytest.raises(tf.errors.InvalidArgumentError, match="Could not parse example"):
        model.run("examples", {"examples": [b"no example"]})
    with pytest.raises(tf.errors.InvalidArgumentError, match="text"):
        model.run("examples", {"examples": [tf.train.Example().SerializeToString()]})


@pytest.mark.parametrize(("task", "requests"), [("classifier", 10_000), ("decoder", 1_000)])
def test_memory_does_not_grow_with_requests(served, task, requests):
    model, process = served(task), psutil.Process()
    texts = ["good film 🙂 ".encode() * (i % 50) for i in range(requests)]
    for text in texts[:500]:  # the allocator finds the sizes that it needs
        model.ask(model.main, [text])
    before = process.memory_info().rss
    for text in texts:
        model.ask(model.main, [text])
    assert process.memory_info().rss - before < 4 * 2**20
