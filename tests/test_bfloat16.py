"""bfloat16 is used where the processor has it and the clock says so."""

from __future__ import annotations

from itertools import chain

import pytest
import torch
from torch import nn

from taco.recovery import bfloat16
from taco.recovery.bfloat16 import autocast, has_bfloat16, is_faster

NAMES = ("_is_avx512_bf16_supported", "_is_amx_tile_supported", "_is_arm_bf16_supported")
MODEL = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 2))


def test_autocast_is_off_where_asked_or_not_native() -> None:
    with autocast(enabled=False):
        assert not torch.is_autocast_enabled("cpu")
    with autocast():
        assert torch.is_autocast_enabled("cpu") == has_bfloat16()


def test_the_processor_decides_on_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.setattr(torch.cpu, name, lambda: False, raising=False)
    assert not has_bfloat16()
    for name in NAMES:
        with monkeypatch.context() as patch:
            patch.setattr(torch.cpu, name, lambda: True, raising=False)
            assert has_bfloat16()


def test_nothing_is_measured_where_the_processor_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bfloat16, "has_bfloat16", lambda _device: False)
    monkeypatch.setattr("taco.recovery.bfloat16.time.perf_counter", lambda: pytest.fail("nothing is to be timed"))
    assert not is_faster(MODEL, (3, 8, 8))


@pytest.mark.parametrize(("plain", "half", "faster"), [(2.0, 1.0, True), (1.0, 2.0, False), (1.0, 0.95, False)])
def test_the_clock_decides_where_it_has(
    plain: float, half: float, faster: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bfloat16, "has_bfloat16", lambda _device: True)
    ticks = chain.from_iterable([0.0, plain, 0.0, half] for _ in range(3))
    monkeypatch.setattr("taco.recovery.bfloat16.time.perf_counter", lambda: next(ticks))
    assert is_faster(MODEL, (3, 8, 8)) == faster
    assert all(p.grad is None for p in MODEL.parameters())
