"""Probes on a tiny model: what is cut, that harm is a divergence, and that nothing depends on chance."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from families import SMALL, build, units_of
from torch import nn

from taco.compress import UnitSolution, calibrate_units, droppable, solve_units, stitch
from taco.exporters.mixed import divergence
from taco.exporters.protocol import FloatArray
from taco.latency.losses import UnitLoss, choose_currency
from taco.search.probes import JOINTS, Probed, Prober
from taco.specialist.specialise import predict_logits

FAMILY = SMALL[0]
PICTURES = torch.randn(6, *FAMILY.input_size, generator=torch.Generator().manual_seed(1))


def answer(module: nn.Module) -> FloatArray:
    return predict_logits(module, [PICTURES])


@pytest.fixture(scope="module")
def prober() -> Prober:
    model, units = build(FAMILY), units_of(FAMILY).within_blocks
    solutions: dict[str, UnitSolution] = solve_units(model, units, calibrate_units(model, units, [PICTURES[:4]]))
    return Prober(model, solutions, answer, answer(model).argmax(1), 16, {})


@pytest.fixture(scope="module")
def probed(prober: Prober) -> Probed:
    told: list[int] = []
    found = prober.probe(told.append)
    assert sum(told) == prober.total
    return found


def test_every_unit_is_cut_alone_at_widths_of_the_target(prober: Prober, probed: Probed) -> None:
    assert probed.alone.keys() == prober.solutions.keys()
    for name, probes in probed.alone.items():
        width = prober.solutions[name].unit.width
        widths = [probe.width for probe in probes]
        assert widths == sorted(set(widths), reverse=True)
        assert all(w % 16 == 0 and 0 < w < width for w in widths)
        assert all(probe.harm >= 0 for probe in probes)
    assert {probe.harm > 0 for probes in probed.alone.values() for probe in probes} == {True}


def test_models_with_all_units_cut_differ_and_do_most_harm(prober: Prober, probed: Probed) -> None:
    assert len({tuple(joint.widths.items()) for joint in probed.joint}) > JOINTS // 2
    typical = np.median([probe.harm for probes in probed.alone.values() for probe in probes])
    assert np.median([joint.harm for joint in probed.joint]) > typical
    assert all(joint.widths.keys() == prober.solutions.keys() for joint in probed.joint)


def test_a_width_that_is_not_cut_does_no_harm(prober: Prober) -> None:
    assert prober.harm({n: s.unit.width for n, s in prober.solutions.items()}) == 0


def test_right_answers_are_counted_for_the_dense_and_the_cut_model(prober: Prober) -> None:
    dense = {name: s.unit.width for name, s in prober.solutions.items()}
    assert prober.right(dense) == (len(PICTURES), len(PICTURES)), "labels are the dense model's own answers"
    wrong = dataclasses.replace(prober, labels=prober.labels + 1)
    assert wrong.right(dense) == (0, 0)


def test_probing_again_gives_the_same(prober: Prober, probed: Probed) -> None:
    assert prober.probe(lambda _: None) == probed


@pytest.mark.parametrize("number", [2, 5], ids=["a convolution behind it", "a linear layer on pictures behind it"])
def test_a_block_is_left_out_alone_and_the_refit_behind_it_is_part_of_the_harm(number: int) -> None:
    family = SMALL[3]
    model, x = build(family), torch.randn(4, *family.input_size, generator=torch.Generator().manual_seed(1))
    block = units_of(family).of("block")[number]
    asked: list[int] = []

    def batches() -> list[torch.Tensor]:
        asked.append(1)
        return [x]

    def answers(module: nn.Module) -> FloatArray:
        return predict_logits(module, [x])

    prober = Prober(model, {block.name: droppable(block)}, answers, answers(model).argmax(1), 8, {}, batches)
    found = prober.probe(lambda _: None)
    assert found.alone == {}
    harm = found.dropped[block.name]
    assert harm == prober.harm({block.name: 0}) > 0
    assert asked, "the layer behind it is refitted"
    bare = divergence(answers(model), answers(stitch(model, prober.solutions, {block.name: 0})))
    assert harm < bare, "on the very pictures that it was refitted on, it comes nearer"
    assert prober.harm({block.name: 1}) == 0


def test_blocks_are_left_out_one_after_the_other_as_each_is_alone() -> None:
    """What comes before a block is computed once for all of them, and refits have several batches."""
    family = SMALL[3]
    model, units = build(family), units_of(family)
    generator = torch.Generator().manual_seed(2)
    pictures = [torch.randn(n, *family.input_size, generator=generator) for n in (4, 3)]
    blocks = {u.name: droppable(u) for u in units.of("block")}
    assert len(blocks) > 1

    def answers(module: nn.Module) -> FloatArray:
        return predict_logits(module, pictures)

    prober = Prober(model, blocks, answers, answers(model).argmax(1), 8, {}, lambda: pictures)
    assert prober.probe(lambda _: None).dropped == {name: prober.harm({name: 0}) for name in blocks}


def test_probes_tell_which_models_are_worse(prober: Prober, probed: Probed) -> None:
    units = {
        name: UnitLoss(s.order.loss.numpy(), len(s.unit.consumers), probed.alone[name])
        for name, s in prober.solutions.items()
    }
    assert choose_currency(units, probed.joint).correlations["probes"] > 0.3
