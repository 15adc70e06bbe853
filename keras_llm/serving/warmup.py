"""Warm-up: requests that a server answers before it says that it is ready.

TF Serving reads them from `assets.extra/tf_serving_warmup_requests` of a version, a TFRecord file
of `PredictionLog`; without, the first user waits while the graph is optimized.
"""

import tensorflow as tf

MOST_REQUESTS = 1000  # TF Serving refuses a file with more


def serving_apis():
    """Imports TF Serving's protocol buffers.

    Returns:
        The module of `PredictionLog`.

    Raises:
        ImportError: the extra `[serving]` is missing.
    """
    try:
        from tensorflow_serving.apis import prediction_log_pb2
    except ImportError as error:
        raise ImportError(
            "TF Serving's protocol buffers are missing: pip install 'keras-llm[serving]'."
        ) from error
    return prediction_log_pb2


def write_warmup(folder, name, requests):
    """Writes requests to `serving_default`, one text each.

    Args:
        folder: `pathlib.Path` of a version.
        name: str, the name that the server gives the model.
        requests: list of str, or a dict of lists of the same length.

    Raises:
        ValueError: there are more than 1,000.
        ImportError: the extra `[serving]` is missing.
    """
    apis = serving_apis()
    columns = requests if isinstance(requests, dict) else {"text": list(requests)}
    rows = list(zip(*columns.values(), strict=True))
    if len(rows) > MOST_REQUESTS:
        raise ValueError(f"{len(rows)} warm-up requests; TF Serving takes {MOST_REQUESTS} at most.")
    extra = folder / "assets.extra"
    extra.mkdir()
    with tf.io.TFRecordWriter(str(extra / "tf_serving_warmup_requests")) as file:
        for row in rows:
            log = apis.PredictionLog()
            request = log.predict_log.request
            request.model_spec.name = name
            request.model_spec.signature_name = "serving_default"
            for column, text in zip(columns, row, strict=True):
                request.inputs[column].CopyFrom(tf.make_tensor_proto([text], tf.string))
            file.write(log.SerializeToString())


def read_warmup(folder):
    """Reads the requests back.

    Args:
        folder: `pathlib.Path` of a version.

    Returns:
        A dict of lists of str, as `serve` takes them; empty where there are none.
    """
    file = folder / "assets.extra" / "tf_serving_warmup_requests"
    columns = {}
    if file.exists():
        for record in tf.data.TFRecordDataset(str(file)):
            request = serving_apis().PredictionLog.FromString(record.numpy()).predict_log.request
            for name, tensor in request.inputs.items():
                columns.setdefault(name, []).append(tf.make_ndarray(tensor)[0].decode())
    return columns
