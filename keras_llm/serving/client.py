"""A client of TF Serving, over REST and gRPC.

The wire format is TF Serving's: `predict` of its REST API in the columnar form, and `Predict`,
`GetModelStatus` of its gRPC services.
"""

import json
from collections.abc import Mapping

import httpx2
import numpy as np
import tensorflow as tf

from keras_llm.serving.warmup import serving_apis


class Client:
    """Asks a model that TF Serving serves.

    Args:
        url: str, `"http://localhost:8501"` for REST, which every server has; or
            `"grpc://localhost:8500"`, which is faster and needs the extra `[serving]`.
        model: str, the name of the model in the server.
        version: int, or None for the latest.
        timeout: float, seconds to wait for an answer.

    Raises:
        ValueError: the address is neither of `http`, `https` nor `grpc`.
        ImportError: gRPC without the extra `[serving]`.

    Example:
        >>> client = Client("http://localhost:8501", "sentiment")
        >>> client.predict(["A good film."])  # doctest: +SKIP
        {'label': array(['positive'], dtype='<U8'), 'probabilities': array([[0.02, 0.98]])}
        >>> Client("localhost:8501", "sentiment")
        Traceback (most recent call last):
        ValueError: 'localhost:8501' must begin with http://, https:// or grpc://.
    """

    def __init__(self, url, model, version=None, timeout=60.0):
        scheme, _, address = url.partition("://")
        if scheme not in ("http", "https", "grpc"):
            raise ValueError(f"{url!r} must begin with http://, https:// or grpc://.")
        connection = _Grpc if scheme == "grpc" else _Rest
        self._connection = connection(url, address.rstrip("/"), model, version, timeout)

    def predict(self, text=None, signature="serving_default", **inputs):
        """Asks a signature.

        Args:
            text: list of str, for signatures with the one input `text`.
            signature: str, its name.
            **inputs: the inputs by their names, lists or arrays of the types that the signature
                has, such as `question=[...], context=[...]`.

        Returns:
            A dict from the names of the outputs to arrays; strings are str.

        Raises:
            RuntimeError: the server refuses; the message is the server's.
            ConnectionError: there is no server, or it did not answer in time.
        """
        inputs = dict(inputs) if text is None else {"text": text, **inputs}
        columns = {name: np.asarray(values) for name, values in inputs.items()}
        return self._connection.predict(signature, columns)

    def generate(self, prompts, max_new_tokens=64, temperature=1.0, top_k=0, top_p=1.0, seed=0):
        """Lets a language model go on with texts.

        Args:
            prompts: list of str.
            max_new_tokens: int, or one for each prompt, as all that follow: tokens to write.
            temperature: float; 0 takes the most probable token.
            top_k: int, how many tokens to draw from; 0 for all.
            top_p: float, draw from the most probable tokens that together have this probability.
            seed: int, another seed draws another text.

        Returns:
            List of str, prompts and continuations.
        """
        columns = {
            "max_new_tokens": np.asarray(max_new_tokens, "int32"),
            "temperature": np.asarray(temperature, "float32"),
            "top_k": np.asarray(top_k, "int32"),
            "top_p": np.asarray(top_p, "float32"),
            "seed": np.asarray(seed, "int32"),
        }
        columns = {name: np.broadcast_to(value, len(prompts)) for name, value in columns.items()}
        answer = self.predict(signature="generate", prompt=list(prompts), **columns)
        return answer["text"].tolist()

    def status(self):
        """Asks which versions the server has.

        Returns:
            A dict from versions, int, to their states, str: "AVAILABLE", "LOADING", ...
        """
        return self._connection.status()


class _Rest:
    def __init__(self, url, address, model, version, timeout):
        self.address = f"{url.rstrip('/')}/v1/models/{model}"
        self.version = "" if version is None else f"/versions/{version}"
        self.session = httpx2.Client(timeout=timeout)  # keeps the connection open
        self.metadata = None

    def predict(self, signature, columns):
        body = {
            "signature_name": signature,
            "inputs": {name: values.tolist() for name, values in columns.items()},
        }
        answer = self._ask("POST", f"{self.version}:predict", json=body)["outputs"]
        if not isinstance(answer, Mapping):  # the server leaves out the name of an only output
            answer = {self._only_output(signature): answer}
        return {name: np.array(values) for name, values in answer.items()}

    def _only_output(self, signature):
        if self.metadata is None:
            self.metadata = self._ask("GET", f"{self.version}/metadata")["metadata"]
        (name,) = self.metadata["signature_def"]["signature_def"][signature]["outputs"]
        return name

    def status(self):
        versions = self._ask("GET", self.version)["model_version_status"]
        return {int(version["version"]): version["state"] for version in versions}

    def _ask(self, method, path, **body):
        try:
            answer = self.session.request(method, self.address + path, **body)
        except httpx2.TransportError as error:
            raise ConnectionError(f"{self.address} does not answer: {error}") from error
        try:
            content = answer.json()
        except json.JSONDecodeError:
            content = {"error": answer.text}
        if not answer.is_success:
            raise RuntimeError(f"The server refuses ({answer.status_code}): {content['error']}")
        return content


class _Grpc:
    def __init__(self, url, address, model, version, timeout):
        serving_apis()  # says what to install
        import grpc
        from tensorflow_serving.apis import (
            get_model_status_pb2,
            model_service_pb2_grpc,
            predict_pb2,
            prediction_service_pb2_grpc,
        )

        size = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
        channel = grpc.insecure_channel(address, options=size)
        self.error = grpc.RpcError
        self.refusals = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
        self.predictions = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        self.models = model_service_pb2_grpc.ModelServiceStub(channel)
        self.messages = predict_pb2, get_model_status_pb2
        self.address, self.model, self.version, self.timeout = address, model, version, timeout

    def predict(self, signature, columns):
        request = self._named(self.messages[0].PredictRequest())
        request.model_spec.signature_name = signature
        for name, values in columns.items():
            values = values.astype(object) if values.dtype.kind == "U" else values
            request.inputs[name].CopyFrom(tf.make_tensor_proto(values))
        answer = self._ask(self.predictions.Predict, request)
        return {name: _array(tensor) for name, tensor in answer.outputs.items()}

    def status(self):
        request = self._named(self.messages[1].GetModelStatusRequest())
        answer = self._ask(self.models.GetModelStatus, request)
        states = self.messages[1].ModelVersionStatus.State
        return {
            version.version: states.Name(version.state) for version in answer.model_version_status
        }

    def _named(self, request):
        request.model_spec.name = self.model
        if self.version is not None:
            request.model_spec.version.value = self.version
        return request

    def _ask(self, method, request):
        try:
            return method(request, timeout=self.timeout)
        except self.error as error:
            if error.code() in self.refusals:
                message = f"{self.address} does not answer: {error.details()}"
                raise ConnectionError(message) from error
            raise RuntimeError(
                f"The server refuses ({error.code().name}): {error.details()}"
            ) from error


def _array(tensor):
    """Returns the array of a tensor; strings as str."""
    array = tf.make_ndarray(tensor)
    if array.dtype != object:
        return array
    return np.array([text.decode() for text in array.ravel()]).reshape(array.shape)
