"""Small random models of `transformers`, through our files and back."""

import battery
import numpy as np
import pytest

from keras_llm.checkpoints import load_hugging_face, save_hugging_face

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


def randomized(model, seed=0):
    """Draws all parameters: biases and norms too, which start as zeros and ones."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
    return model.eval()


def round_trip(theirs, folder, cls=None):
    """Theirs to ours and back to theirs, by files; returns ours."""
    theirs.save_pretrained(folder / "theirs")
    ours, tokenizer = load_hugging_face(folder / "theirs", cls)
    assert tokenizer is None
    save_hugging_face(ours, folder / "ours")
    again, report = type(theirs).from_pretrained(folder / "ours", output_loading_info=True)
    assert not any(report.values()), report
    expected = theirs.state_dict()
    for name, tensor in again.state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), expected[name].numpy(), err_msg=name)
    return ours


def inputs(vocabulary, length, side, segments=None, seed=0):
    """Three rows of token ids; two are padded, on the right or on the left, with id 1."""
    rng = np.random.default_rng(seed)
    real = np.array([[length], [length // 2 + 1], [2]])
    mask = np.arange(length) < real
    mask = mask if side == "right" else mask[:, ::-1]
    x = {
        "token_ids": np.where(mask, rng.integers(2, vocabulary, mask.shape), 1),
        "padding_mask": mask,
    }
    return x if segments is None else x | {"segment_ids": rng.integers(0, segments, mask.shape)}


def call(theirs, x, **kwargs):
    """Calls a model of `transformers` on our inputs."""
    names = {
        "token_ids": "input_ids",
        "segment_ids": "token_type_ids",
        "padding_mask": "attention_mask",
    }
    tensors = {names[name]: torch.tensor(array.astype("int64")) for name, array in x.items()}
    with torch.no_grad():
        return theirs(**tensors, **kwargs)


def assert_same(ours, theirs, mask, tolerance=1e-4):
    """Compares what two models give at the real tokens."""
    ours, theirs = battery.numpy(ours), theirs.numpy()
    battery.assert_close(ours[mask], theirs[mask], tolerance)


def assert_same_at(positions, ours, theirs, tolerance=1e-4):
    """Compares our logits at masked positions with theirs at all."""
    expected = np.take_along_axis(theirs.numpy(), positions[:, :, None], axis=1)
    battery.assert_close(battery.numpy(ours), expected, tolerance)
