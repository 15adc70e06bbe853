import builtins
import io

import pytest

from keras_llm.training import fast_dtype_policy


@pytest.mark.parametrize(
    ("flags", "policy"),
    [
        ("fpu avx512f avx512_bf16", "mixed_bfloat16"),
        ("fpu amx_bf16", "mixed_bfloat16"),
        ("fpu avx2", "float32"),
    ],
)
def test_bfloat16_only_where_the_processor_has_it(monkeypatch, flags, policy):
    real_open = builtins.open

    def fake_open(path, *args, **kwargs):
        if path == "/proc/cpuinfo":
            return io.StringIO(f"model name : any\nflags : {flags}\n")
        return real_open(path, *args, **kwargs)

    monkeypatch.setattr(builtins, "open", fake_open)
    assert fast_dtype_policy() == policy


def test_no_proc_no_bfloat16(monkeypatch):
    def no_such_file(*args, **kwargs):
        raise FileNotFoundError

    monkeypatch.setattr(builtins, "open", no_such_file)
    assert fast_dtype_policy() == "float32"
