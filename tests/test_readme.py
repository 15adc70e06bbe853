import re
from pathlib import Path

import battery
import numpy as np
import pytest
import tensorflow as tf

import keras_llm
from keras_llm import corpora

ROOT = Path(keras_llm.__file__).parent.parent
PAGES = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/architecture.md"]


def test_the_examples_fit_export_translate_embed_and_go_on_a_device(tmp_path, monkeypatch, capsys):
    classify, translate, embed, device = re.findall(
        r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL
    )
    monkeypatch.setattr(corpora, "load", battery.load_thinned(7))  # the whole takes minutes
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(classify, "README.md", "exec"), names)
    model = names["model"]
    exec(compile(translate, "README.md", "exec"), names)
    assert re.search(r"[\u4e00-\u9fff]", capsys.readouterr().out.splitlines()[-1])
    exec(compile(embed, "README.md", "exec"), names)
    printed = capsys.readouterr().out
    similarity = np.array(re.findall(r"-?\d\.\d*", printed), float).reshape(3, 3)
    np.testing.assert_allclose(similarity.diagonal(), 1)
    assert similarity[0, 1] > similarity[0, 2] + 0.2  # moved to tears, not to the battery

    exec(compile(device, "README.md", "exec"), names)
    assert names["report"]["agreement"] > 0.95

    texts, labels = names["snippets"].validation.labelled("label", names["classes"])
    assert set(labels) == {"negative", "positive"}
    served = tf.saved_model.load("export/sentiment/1").signatures["serving_default"]
    outputs = served(text=tf.constant(texts))
    predicted = model.predict(texts, verbose=0)
    np.testing.assert_allclose(outputs["probabilities"], predicted["probabilities"], atol=1e-5)


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    path = ROOT / page
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text())
    missing = [link for link in links if "://" not in link and not (path.parent / link).exists()]
    assert not missing


def test_the_table_of_data_sets_is_complete():
    rows = re.findall(r"^\| `(\w+)` \|", (ROOT / "README.md").read_text(), flags=re.MULTILINE)
    assert rows == corpora.available()
