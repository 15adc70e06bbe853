"""The client against servers that speak as TF Serving's documents say, and take nothing else.

REST: https://www.tensorflow.org/tfx/serving/api_rest. gRPC: the services of tensorflow-serving-api.
"""

import json
import re
import threading
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
import numpy as np
import pytest
import tensorflow as tf
from served import TEXTS
from tensorflow_serving.apis import (
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from keras_llm.serving import Client


class Rest(BaseHTTPRequestHandler):
    """`POST /v1/models/NAME[/versions/N]:predict` and `GET /v1/models/NAME[/metadata]`."""

    def do_POST(self):
        path = re.fullmatch(r"/v1/models/(\w+)(?:/versions/(\d+))?:predict", self.path)
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not path or path[1] != "film" or path[2] not in (None, "1"):
            return self.answer(404, {"error": f"Servable not found for request: {self.path}"})
        assert set(body) == {"signature_name", "inputs"}
        signature = self.server.signatures.get(body["signature_name"])
        if signature is None:
            return self.answer(400, {"error": "Serving signature name not found"})
        specs = signature.structured_input_signature[1]
        if set(specs) != set(body["inputs"]):
            return self.answer(400, {"error": "input keys do not match"})
        outputs = signature(
            **{name: tf.constant(body["inputs"][name], specs[name].dtype) for name in specs}
        )
        columns = {name: as_json(tensor) for name, tensor in outputs.items()}
        if len(columns) == 1:  # as documented: the name is left out
            (columns,) = columns.values()
        return self.answer(200, {"outputs": columns})

    def do_GET(self):
        if self.path == "/v1/models/film/metadata":
            return self.answer(200, self.metadata())
        assert self.path == "/v1/models/film"
        status = {"error_code": "OK", "error_message": ""}
        version = {"version": "1", "state": "AVAILABLE", "status": status}
        return self.answer(200, {"model_version_status": [version]})

    def metadata(self):
        """The signatures as Protocol Buffers write them in JSON."""
        signatures = {
            name: {
                "inputs": {},
                "outputs": {key: {"name": f"{key}:0"} for key in signature.structured_outputs},
                "method_name": "tensorflow/serving/predict",
            }
            for name, signature in self.server.signatures.items()
        }
        return {
            "model_spec": {"name": "film", "signature_name": "", "version": "1"},
            "metadata": {"signature_def": {"signature_def": signatures}},
        }

    def answer(self, code, content):
        content = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments):
        pass


def as_json(tensor):
    array = tensor.numpy()
    return (np.vectorize(bytes.decode)(array) if array.dtype == object else array).tolist()


class Predictions(prediction_service_pb2_grpc.PredictionServiceServicer):
    def __init__(self, signatures):
        self.signatures = signatures

    def Predict(self, request, context):  # noqa: N802
        signature = self.signatures.get(request.model_spec.signature_name)
        if request.model_spec.name != "film":
            context.abort(grpc.StatusCode.NOT_FOUND, "Servable not found")
        if signature is None:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "signature not found")
        inputs = {name: tf.constant(tf.make_ndarray(t)) for name, t in request.inputs.items()}
        answer = predict_pb2.PredictResponse()
        for name, tensor in signature(**inputs).items():
            answer.outputs[name].CopyFrom(tf.make_tensor_proto(tensor))
        return answer


class Models(model_service_pb2_grpc.ModelServiceServicer):
    def GetModelStatus(self, request, context):  # noqa: N802
        version = get_model_status_pb2.ModelVersionStatus(version=1, state=30)  # AVAILABLE
        return get_model_status_pb2.GetModelStatusResponse(model_version_status=[version])


@pytest.fixture(scope="module")
def servers(exports):
    """Addresses of both servers, and what they serve, by the name of a task."""
    running, made = [], {}

    def start(name):
        if name in made:
            return made[name]
        signatures = tf.saved_model.load(exports(name)[1]).signatures
        rest = ThreadingHTTPServer(("localhost", 0), Rest)
        rest.signatures = signatures
        threading.Thread(target=rest.serve_forever, daemon=True).start()
        server = grpc.server(futures.ThreadPoolExecutor(4))
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
            Predictions(signatures), server
        )
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(Models(), server)
        port = server.add_insecure_port("localhost:0")
        server.start()
        running.append((rest, server))
        made[name] = (
            signatures,
            {
                "rest": f"http://localhost:{rest.server_port}",
                "grpc": f"grpc://localhost:{port}",
            },
        )
        return made[name]

    yield start
    for rest, server in running:
        rest.shutdown()
        server.stop(None)


@pytest.fixture(params=["rest", "grpc"])
def protocol(request):
    return request.param


def test_a_classifier(servers, protocol):
    signatures, urls = servers("classifier")
    expected = signatures["serving_default"](text=tf.constant(TEXTS))
    for version in (None, 1):
        answer = Client(urls[protocol], "film", version).predict(TEXTS)
        assert answer["label"].tolist() == [name.decode() for name in expected["label"].numpy()]
        np.testing.assert_allclose(answer["probabilities"], expected["probabilities"], atol=1e-6)


def test_tokens_and_their_answer(servers, protocol):
    _, urls = servers("classifier")
    client = Client(urls[protocol], "film")
    tokens = client.predict(TEXTS[:2], signature="tokenize")
    answer = client.predict(signature="tokens", **tokens)
    expected = client.predict(TEXTS[:2])
    np.testing.assert_allclose(answer["probabilities"], expected["probabilities"], atol=1e-6)


def test_an_only_output_has_its_name(servers, protocol):
    signatures, urls = servers("embedder")
    ((name, expected),) = signatures["serving_default"](text=tf.constant(TEXTS)).items()
    answer = Client(urls[protocol], "film").predict(TEXTS)
    assert list(answer) == [name]
    np.testing.assert_allclose(answer[name], expected, atol=1e-6)


def test_generation(servers, protocol):
    signatures, urls = servers("decoder")
    texts = Client(urls[protocol], "film").generate(
        ["a good", "film"], max_new_tokens=[3, 5], temperature=[0.0, 1.0], seed=3
    )
    columns = {
        "max_new_tokens": tf.constant([3, 5]),
        "temperature": tf.constant([0.0, 1.0]),
        "top_k": tf.constant([0, 0]),
        "top_p": tf.constant([1.0, 1.0]),
        "seed": tf.constant([3, 3]),
    }
    expected = signatures["generate"](prompt=tf.constant(["a good", "film"]), **columns)
    assert texts == [text.decode() for text in expected["text"].numpy()]


def test_status(servers, protocol):
    _, urls = servers("classifier")
    assert Client(urls[protocol], "film").status() == {1: "AVAILABLE"}


def test_what_the_server_refuses(servers, protocol):
    _, urls = servers("classifier")
    with pytest.raises(RuntimeError, match=r"refuses .*not found"):
        Client(urls[protocol], "book").predict(["fine"])
    with pytest.raises(RuntimeError, match=r"refuses .*not found"):
        Client(urls[protocol], "film").predict(["fine"], signature="nonsense")


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_no_server(scheme):
    with pytest.raises(ConnectionError, match=r"localhost:9.* does not answer"):
        Client(f"{scheme}://localhost:9", "film", timeout=5.0).predict(["fine"])
