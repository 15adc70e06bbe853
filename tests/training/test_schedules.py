import keras
import pytest
import torch
from transformers import get_inverse_sqrt_schedule, get_linear_schedule_with_warmup

from keras_llm.training import WarmupInverseSquareRootDecay, WarmupLinearDecay


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


def test_inverse_square_root_equals_transformers():
    # theirs counts from 0 and has a peak of 1; the paper's is (512 * 7) ** -0.5, at step 7
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    reference = get_inverse_sqrt_schedule(optimizer, num_warmup_steps=7)
    ours = WarmupInverseSquareRootDecay(512, warmup_steps=7)
    for step in range(45):
        expected = reference.get_last_lr()[0] * (512 * 7) ** -0.5
        if step:
            assert float(ours(step - 1)) == pytest.approx(expected, rel=1e-5)
        optimizer.step()
        reference.step()


def test_inverse_square_root_round_trip_and_errors():
    schedule = WarmupInverseSquareRootDecay(64, 100, scale=2.0)
    config = keras.optimizers.schedules.serialize(schedule)
    copy = keras.optimizers.schedules.deserialize(config)
    assert float(copy(50)) == float(schedule(50))
    for sizes in ((0, 10), (10, 0)):
        with pytest.raises(ValueError, match="must be at least 1"):
            WarmupInverseSquareRootDecay(*sizes)
