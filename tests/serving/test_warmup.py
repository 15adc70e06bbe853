"""Warm-up requests, read back as TF Serving reads them."""

import pytest
import tensorflow as tf
from served import TEXTS, answerer, classifier
from tensorflow_serving.apis import prediction_log_pb2

from keras_llm import serving
from keras_llm.serving.warmup import read_warmup


def logs(version):
    file = version / "assets.extra" / "tf_serving_warmup_requests"
    records = tf.data.TFRecordDataset(str(file))
    return [prediction_log_pb2.PredictionLog.FromString(r.numpy()) for r in records]


def test_requests_are_prediction_logs(tmp_path):
    version = serving.export(classifier(), tmp_path / "film", warmup=TEXTS)
    requests = [log.predict_log.request for log in logs(version)]
    assert len(requests) == len(TEXTS)
    for request, text in zip(requests, TEXTS, strict=True):
        assert request.model_spec.name == "film"
        assert request.model_spec.signature_name == "serving_default"
        assert list(request.inputs) == ["text"]
        tensor = request.inputs["text"]
        assert tensor.dtype == tf.string.as_datatype_enum
        assert tf.make_ndarray(tensor).tolist() == [text.encode()]
    assert read_warmup(version) == {"text": TEXTS}
    served = serving.check(version)
    assert served["probabilities"].shape == (len(TEXTS), 2)


def test_requests_of_two_columns(tmp_path):
    columns = {"question": ["who saw?", "what?"], "context": ["a film", "the film"]}
    version = serving.export(answerer(), tmp_path / "film", warmup=columns)
    assert {name: sorted(texts) for name, texts in read_warmup(version).items()} == columns | {
        "question": sorted(columns["question"])
    }
    assert sorted(logs(version)[0].predict_log.request.inputs) == ["context", "question"]


def test_too_many_requests_leave_nothing_behind(tmp_path):
    with pytest.raises(ValueError, match="1001 warm-up requests; TF Serving takes 1000"):
        serving.export(classifier(), tmp_path / "film", warmup=["fine"] * 1001)
    assert list((tmp_path / "film").iterdir()) == []


def test_versions_that_are_named(tmp_path):
    model = classifier()
    assert serving.export(model, tmp_path, signatures=[], version=20).name == "20"
    with pytest.raises(ValueError, match="an integer above 20, the highest"):
        serving.export(model, tmp_path, version=20)
    assert serving.export(model, tmp_path, signatures=[]).name == "21"
    assert sorted(child.name for child in tmp_path.iterdir()) == ["20", "21"]
