"""What an export may be made of, and what is said of it."""

import pytest
import tensorflow as tf
import tensorflow_text

from keras_llm import serving


def test_ops_that_servers_lack_are_found_in_functions_too(tmp_path):
    """TF Serving 2.18 has TensorFlow Text 2.12, which cannot trim."""
    module = tf.Module()

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "text")])
    def serve(text):
        words = tf.strings.split(text)
        return {"words": tensorflow_text.RoundRobinTrimmer(2).trim([words])[0].to_tensor("")}

    tf.saved_model.save(module, str(tmp_path), signatures={"serving_default": serve})
    with pytest.raises(RuntimeError, match=r"does not link: \['TFText>RoundRobinTrim'\]"):
        serving.check(tmp_path, ["one two three"])


def test_a_report_names_size_ops_signatures_and_answers(exports, capsys):
    _, version = exports("classifier")
    serving.check(version, ["A good film."], verbose=True)
    printed = capsys.readouterr().out
    for part in ("MiB", "NormalizeUTF8", "serving_default", "probabilities", "1 requests"):
        assert part in printed
