"""Recovery on an NVIDIA GPU that torch sees (`pytest -m gpu`): as good as on a processor, repeatable, resumable."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from test_recover import FAST, SIZE, case, pixels, run

from taco.compute import CPU, choose_device, device_of, moved
from taco.model import state_sha256
from taco.recover import Watch
from taco.recovery.bfloat16 import is_faster
from taco.recovery.checkpoint import Checkpoint
from taco.recovery.distillation import objective
from taco.recovery.taps import block_ends
from taco.recovery.teacher_bank import ask_teacher
from taco.recovery.trainer import RecoveryOptions

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]


@pytest.fixture
def there() -> RecoveryOptions:
    return dataclasses.replace(FAST, device=choose_device("cuda"))


def test_it_comes_as_close_to_the_teacher_as_on_a_processor(there: RecoveryOptions) -> None:
    here, found = run(), run(options=there)
    assert found.loss_before == pytest.approx(here.loss_before, rel=1e-3)
    assert found.loss_after == pytest.approx(here.loss_after, rel=0.05)
    assert found.loss_after < 0.8 * found.loss_before
    assert device_of(found.module) == CPU
    assert found.loss_after == pytest.approx(objective(found.module, case().select), rel=1e-3)
    assert found.device == torch.cuda.get_device_name()


def test_one_seed_repeats_bit_for_bit(there: RecoveryOptions) -> None:
    one, two = run(options=there), run(options=there)
    assert state_sha256(one.module) == state_sha256(two.module)
    assert one.history == two.history


def test_a_checkpoint_goes_on_with_the_same_result(there: RecoveryOptions, tmp_path: Path) -> None:
    whole = run(options=there)
    file = tmp_path / "recovery.safetensors"

    class StoppedError(Exception):
        pass

    def stop(step: int, _best: float) -> None:
        if step == 13:
            raise StoppedError

    with pytest.raises(StoppedError):
        run(options=there, watch=Watch(stop, Checkpoint(file, every_s=0.0)))
    again = run(options=there, watch=Watch(None, Checkpoint(file, every_s=0.0)))
    assert state_sha256(again.module) == state_sha256(whole.module)
    assert again.history == whole.history


def test_bfloat16_trains_too(there: RecoveryOptions) -> None:
    found = run(options=dataclasses.replace(there, bfloat16=True))
    assert found.loss_after < 0.8 * found.loss_before


def test_the_teacher_answers_as_on_a_processor() -> None:
    teacher = case().student
    ends = block_ends(teacher, SIZE.input_size)
    here, there = (
        ask_teacher(m, pixels(8, 3), SIZE, ends=ends) for m in (teacher, moved(teacher, choose_device("cuda")))
    )
    np.testing.assert_allclose(there.logits, here.logits, rtol=1e-3, atol=1e-4)
    for name, targets in here.features.items():
        np.testing.assert_allclose(there.features[name].scale, targets.scale, rtol=1e-3)


def test_the_clock_decides_on_bfloat16_there() -> None:
    assert is_faster(moved(case().student, choose_device("cuda")), SIZE.input_size) in (False, True)
