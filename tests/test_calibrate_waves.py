"""Waves that keep to a budget: the same moments as one pass, whatever the batches, the budget or the shards."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import pytest
import torch
from torch import nn

from taco.calibrate import PER_COLUMN, CalibrationOptions, calibrate, calibrate_in_waves, calibrate_wave, plan_waves
from taco.errors import SolverError, TaskError, UnsupportedModuleError
from taco.moments.sums import LayerMoments, Moments, Sums

LAYERS = ["last", "first", "dw", "token"]  # not in the order in which they run
ALL = CalibrationOptions(positions=None)


class Net(nn.Module):
    """A convolution, a depthwise one, a linear layer over tokens that runs twice, and a head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.last = nn.Linear(6, 2)
        self.first = nn.Conv2d(3, 6, 3, stride=2, padding=1)
        self.dw = nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.token = nn.Linear(6, 6)
        self.ran = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.dw(torch.relu(self.first(x))).flatten(2).transpose(1, 2)
        x = self.token(torch.relu(self.token(x))).mean(1)
        self.ran += 1
        return self.last(x)


def pictures(count: int = 7, side: int = 24) -> torch.Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(5)) + 0.5


def found(
    parts: Sequence[torch.Tensor], options: CalibrationOptions = ALL, layers: Sequence[str] = LAYERS
) -> dict[str, LayerMoments]:
    return dict(calibrate_in_waves(Net().eval(), layers, lambda: parts, options))


def same(a: Moments | None, b: Moments | None) -> None:
    assert a is not None
    assert b is not None
    assert (a.n, a.passed_over) == (b.n, b.passed_over)
    torch.testing.assert_close(a.second, b.second, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(a.mean, b.mean, rtol=1e-5, atol=1e-6)


def test_every_layer_comes_once_in_the_order_in_which_they_run() -> None:
    assert list(found([pictures()])) == ["first", "dw", "token", "last"]


def test_all_of_both_halves_is_one_pass_over_everything() -> None:
    x = pictures()
    whole, even, odd = (calibrate(Net().eval(), LAYERS, [part]) for part in (x, x[0::2], x[1::2]))
    for name, moments in found([x[:3], x[3:]]).items():
        same(moments.fit, even[name])
        same(moments.held_out, odd[name])
        same(moments.all, whole[name])


def test_without_halves_everything_is_fitted() -> None:
    x = pictures()
    whole = calibrate(Net().eval(), LAYERS, [x])
    for name, moments in found([x[:3], x[3:]], CalibrationOptions(positions=None, halves=False)).items():
        assert moments.held_out is None
        same(moments.fit, whole[name])


def test_one_picture_has_no_other_half() -> None:
    for moments in found([pictures(1)]).values():
        assert moments.held_out is None
        assert moments.all is moments.fit


@pytest.mark.parametrize("positions", [None, 20])
def test_neither_batches_nor_waves_matter(positions: int | None) -> None:
    x = pictures()
    options = CalibrationOptions(positions=positions)
    tight = dataclasses.replace(options, budget_bytes=2 * Sums.size_bytes(1, 27))
    one = found([x], options)
    for other in (found([x[:2], x[2:3], x[3:]], options), found(x.split(1), tight)):
        assert list(other) == list(one)
        for name in one:
            same(other[name].fit, one[name].fit)
            same(other[name].held_out, one[name].held_out)


@pytest.mark.parametrize("positions", [None, 20])
def test_the_order_of_the_pictures_does_not_matter_to_the_whole(positions: int | None) -> None:
    x, options = pictures(), CalibrationOptions(positions=positions)
    one, other = found([x], options), found([x[4:], x[:4].flip(0)], options)
    for name in one:
        same(other[name].all, one[name].all)


@pytest.mark.parametrize("positions", [None, 20])
def test_shards_of_pictures_reduce_to_one_pass(positions: int | None) -> None:
    x, options = pictures(), CalibrationOptions(positions=positions)
    one = found([x], options)
    first = found([x[:3]], options)
    second = found([x[3:]], dataclasses.replace(options, first_picture=3))
    for name, moments in one.items():
        for part in ("fit", "held_out"):
            same(Moments.merge(getattr(first[name], part), getattr(second[name], part)), getattr(moments, part))


def test_sampled_positions_are_counted_and_stated() -> None:
    moments = found([pictures()], CalibrationOptions(positions=20))
    for name, calls, seen in (("first", 1, 144), ("token", 2, 144), ("dw", 1, 144)):
        assert moments[name].all.n == 7 * calls * 20
        assert moments[name].all.positions_seen == 7 * calls * seen
        assert moments[name].all.subsampled
    assert not moments["last"].all.subsampled  # one position a picture
    assert found([pictures()], CalibrationOptions(positions=1000))["token"].fit.n == 4 * 2 * PER_COLUMN * 6


def test_another_seed_looks_elsewhere_and_finds_about_the_same() -> None:
    x = pictures(40)
    one, other = (found([x], CalibrationOptions(positions=36, seed=seed))["first"].all for seed in (0, 1))
    whole = found([x])["first"].all
    assert not torch.equal(one.second, other.second)
    for sampled in (one, other):
        assert float((sampled.second - whole.second).norm() / whole.second.norm()) < 0.1


def test_waves_keep_to_the_budget_and_hold_every_layer() -> None:
    model = Net().eval()
    size = {"first": Sums.size_bytes(1, 27), "dw": Sums.size_bytes(6, 9), "token": Sums.size_bytes(1, 6)}
    options = CalibrationOptions(budget_bytes=2 * (size["first"] + size["dw"]))
    waves = plan_waves(model, LAYERS, pictures(1), options)
    assert [wave.layers for wave in waves] == [("first", "dw"), ("token", "last")]
    assert [wave.calls for wave in waves] == [2, 3]
    assert [wave.size_bytes for wave in waves] == [2 * (size["first"] + size["dw"]), 4 * size["token"]]
    one = plan_waves(model, LAYERS, pictures(1), dataclasses.replace(options, halves=False))
    assert [wave.layers for wave in one] == [("first", "dw", "token", "last")]


def test_a_pass_ends_with_the_last_layer_of_its_wave() -> None:
    model, x = Net().eval(), pictures()
    waves = plan_waves(model, ["first", "dw"], x[:1], ALL)
    model.ran = 0
    assert len(list(calibrate_wave(model, waves[0], x.split(2), ALL))) == 2
    assert model.ran == 0
    assert model(x).shape == (7, 2)  # and nothing is left of it
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_a_layer_that_runs_twice_is_seen_twice_before_the_pass_ends() -> None:
    assert found([pictures()], layers=["token"])["token"].all.n == 7 * 2 * 144


def test_a_layer_is_given_away_when_it_is_yielded() -> None:
    waves = calibrate_in_waves(Net().eval(), LAYERS, lambda: [pictures()], ALL)
    name, moments = next(waves)
    before = moments.fit.second.clone()
    moments.fit.second.zero_()  # nobody else needs it
    same(dict(waves)["last"].fit, found([pictures()])["last"].fit)
    same(dataclasses.replace(moments.fit, second=before), found([pictures()])[name].fit)


def test_progress_counts_the_pictures_of_every_wave() -> None:
    done: list[int] = []
    budget = 2 * Sums.size_bytes(1, 27)
    options = CalibrationOptions(positions=None, budget_bytes=budget, progress=done.append)
    found([pictures()[:4], pictures()[4:]], options)
    assert done == [4, 3, 4, 3]


def never() -> Iterator[torch.Tensor]:
    raise AssertionError("no picture is needed to see that")


def test_a_layer_above_the_budget_is_named_with_its_size_before_anything_runs() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(25_088, 1)).eval()
    with pytest.raises(UnsupportedModuleError, match=r"of 1 \(25088 columns\) need 9.38 GiB, and 2.00 GiB.*dense"):
        list(calibrate_in_waves(model, ["1"], never))


def test_a_layer_of_another_kind_is_refused_before_anything_runs() -> None:
    with pytest.raises(UnsupportedModuleError, match="no known weight matrix"):
        list(calibrate_in_waves(nn.Sequential(nn.GELU()), ["0"], never))


def test_a_layer_that_never_runs_is_named() -> None:
    model = Net().eval()
    model.unused = nn.Linear(2, 2)
    with pytest.raises(UnsupportedModuleError, match="unused was never run"):
        list(calibrate_in_waves(model, ["first", "unused"], lambda: [pictures()]))


def test_no_picture_is_said_to_be_missing() -> None:
    with pytest.raises(TaskError, match="no picture to calibrate on"):
        list(calibrate_in_waves(Net(), LAYERS, list))


def test_overflowing_activations_name_the_layer() -> None:
    with pytest.raises(SolverError, match="inputs of first are not finite"):
        found([pictures() * float("inf")])


class Windows(nn.Module):
    """As Swin does: pictures are cut into windows, and a table that no picture changes goes through a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.inside, self.table = nn.Linear(3, 3), nn.Linear(2, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        windows = x.flatten(2).transpose(1, 2).reshape(-1, 16, 3)
        return self.inside(windows) + self.table(torch.linspace(0, 1, 22).view(11, 2)).mean()


@pytest.mark.parametrize("count", [2, 3])
def test_windows_belong_to_their_picture_and_tables_to_none(count: int) -> None:
    x = pictures(2 * count, 8)
    moments = dict(calibrate_in_waves(Windows().eval(), ["inside", "table"], lambda: x.split(count), ALL))
    rows = x[0::2].flatten(2).transpose(1, 2).reshape(-1, 3).double()
    torch.testing.assert_close(moments["inside"].fit.second[0], rows.T @ rows / len(rows), rtol=1e-5, atol=1e-6)
    table = torch.linspace(0, 1, 22).view(11, 2).double()
    for half in (moments["table"].fit, moments["table"].held_out):
        assert half is not None
        torch.testing.assert_close(half.second[0], table.T @ table / 11, rtol=1e-5, atol=1e-6)


def test_a_wide_early_layer_is_unfolded_a_few_pictures_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    x, layer = pictures(6, 12), nn.Conv2d(3, 3, 5, padding=2, groups=3)
    largest: list[int] = []
    add = Sums.add

    def watch(sums: Sums, rows: torch.Tensor, passed_over: int = 0) -> None:
        largest.append(rows.numel() * 4)
        add(sums, rows, passed_over)

    whole = calibrate(nn.Sequential(layer).eval(), ["0"], [x])["0"]
    monkeypatch.setattr("taco.calibrate.CHUNK_BYTES", 100_000)
    monkeypatch.setattr(Sums, "add", watch)
    same(calibrate(nn.Sequential(layer).eval(), ["0"], [x])["0"], whole)
    assert len(largest) == 3
    assert max(largest) <= 100_000
