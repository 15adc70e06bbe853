import keras
import pytest
import torch
from transformers import get_linear_schedule_with_warmup

from keras_llm.training import WarmupLinearDecay


def test_equals_transformers():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.3)
    reference = get_linear_schedule_with_warmup(optimizer, 7, 40)
    ours = WarmupLinearDecay(0.3, total_steps=40, warmup_steps=7)
    for step in range(45):
        assert float(ours(step)) == pytest.approx(reference.get_last_lr()[0], abs=1e-7)
        optimizer.step()
        reference.step()


def test_no_warmup_starts_at_the_peak():
    assert float(WarmupLinearDecay(0.3, 10, warmup_steps=0)(0)) == pytest.approx(0.3)


def test_round_trip():
    schedule = WarmupLinearDecay(0.3, 40)
    config = keras.optimizers.schedules.serialize(schedule)
    assert keras.optimizers.schedules.deserialize(config).get_config() == schedule.get_config()
    assert schedule.warmup_steps == 4


@pytest.mark.parametrize("warmup", [-1, 10, 11])
def test_warmup_must_end_before_the_decay(warmup):
    with pytest.raises(ValueError, match="warmup_steps"):
        WarmupLinearDecay(0.1, 10, warmup_steps=warmup)
