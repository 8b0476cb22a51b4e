"""Units that share a layer: a product of shares by hand, the optimum against every combination, and who shares."""

from __future__ import annotations

import itertools
import math

import pytest
import timm
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_latency import make_table

from taco.errors import BudgetInfeasibleError
from taco.latency.levels import Choice, Drop, Level, choose, dense, fastest, levels_of
from taco.latency.levelsearch import Searching, search_levels
from taco.latency.limits import Space
from taco.latency.together import MOST_JOINTS, Together, joints_of, total_ms
from taco.latency.wholes import known_wholes, left_ms, saved_share
from taco.search.sharing import layers_of, together_of
from taco.units import find_units

#: A bottleneck: work in its 3x3 convolution goes with the product of both widths.
FIRST, MIDDLE, LAST = 4.0, 9.0, 4.0
WIDTHS = (16, 12, 8, 4)


def bottleneck_ms(a: int, b: int) -> float:
    """What a block takes on a device whose time is its arithmetic."""
    x, y = a / 16, b / 16
    return FIRST * x + MIDDLE * x * y + LAST * y


def bottleneck() -> tuple[dict[str, list[Level]], Together]:
    """Its table: each unit cut, the other one dense."""
    options = {
        "a": [Level(w, 16.0 - w, bottleneck_ms(w, 16), "measured") for w in WIDTHS],
        "b": [Level(w, (16.0 - w) / 2, bottleneck_ms(16, w), "measured") for w in WIDTHS],
    }
    return options, Together(("a", "b"), {name: own[0].ms for name, own in options.items()})


def test_a_block_keeps_the_product_of_the_shares() -> None:
    group = Together(("a", "b"), {"a": 10.0, "b": 12.0})
    assert group.whole_ms == 11.0
    assert group.ms({"a": 5.0, "b": 3.0}) == pytest.approx(11.0 * 0.5 * 0.25)
    assert total_ms({"a": 5.0, "b": 3.0, "c": 2.0}, (group,)) == pytest.approx(11.0 * 0.125 + 2.0)
    assert total_ms({"c": 2.0}, (group,)) == 2.0  # its block is left out
    assert total_ms({"a": 5.0, "b": 3.0}) == 8.0


def test_the_product_is_nearer_to_a_bottleneck_than_the_sum() -> None:
    options, group = bottleneck()
    for a, b in itertools.product(options["a"], options["b"]):
        true = bottleneck_ms(a.width, b.width)
        by_sum = a.ms + b.ms - group.whole_ms
        assert abs(group.ms({"a": a.ms, "b": b.ms}) - true) <= abs(by_sum - true) + 1e-9
    narrow = {"a": options["a"][-1].ms, "b": options["b"][-1].ms}
    assert group.ms(narrow) == pytest.approx(bottleneck_ms(4, 4), abs=0.1 * group.whole_ms)
    assert sum(narrow.values()) - group.whole_ms < 0  # the sum says that it takes less than nothing


@st.composite
def grouped(draw: st.DrawFn) -> tuple[dict[str, list[Level]], tuple[Together, ...]]:
    """Six units, of which two share a layer and three share some; some losses are equal."""
    options = {}
    for name in "abcdef":
        count = draw(st.integers(1, 3))
        times = sorted(draw(st.lists(st.integers(1, 30), min_size=count, max_size=count, unique=True)), reverse=True)
        losses = sorted(draw(st.lists(st.integers(0, 4), min_size=count - 1, max_size=count - 1)))
        options[name] = [
            Level(8 - i, float(loss), float(ms), "measured")
            for i, (loss, ms) in enumerate(zip([0, *losses], times, strict=True))
        ]
    shared = (("a", "c"), ("b", "d", "e"))
    groups = tuple(Together(units, {name: options[name][0].ms for name in units}) for units in shared)
    return options, groups


@settings(deadline=None)
@given(grouped(), st.floats(0.0, 1.2))
def test_no_combination_within_the_time_loses_less(
    found: tuple[dict[str, list[Level]], tuple[Together, ...]], share: float
) -> None:
    options, groups = found
    table_ms = share * dense(options, groups).table_ms
    every = [Choice(dict(zip(options, own, strict=True)), 0.0, groups) for own in itertools.product(*options.values())]
    within = [choice for choice in every if choice.table_ms <= table_ms]
    if not within:
        with pytest.raises(BudgetInfeasibleError):
            choose(options, table_ms, together=groups)
        return
    best = choose(options, table_ms, 20_000, together=groups)
    assert best.table_ms <= table_ms * (1 + 1e-9)
    # Costs are rounded up to a step of the budget, so a choice that leaves less than that for every unit may be missed.
    clear = [choice for choice in within if choice.table_ms <= table_ms * (1 - len(options) / 20_000)]
    assert best.loss <= min((choice.loss for choice in clear), default=math.inf)


@given(grouped())
def test_the_fastest_of_all_is_the_fastest(found: tuple[dict[str, list[Level]], tuple[Together, ...]]) -> None:
    options, groups = found
    every = [Choice(dict(zip(options, own, strict=True)), 0.0, groups) for own in itertools.product(*options.values())]
    assert fastest(options, None, groups).table_ms == pytest.approx(min(choice.table_ms for choice in every))


def test_of_equal_losses_every_time_can_be_chosen() -> None:
    """Random weights lose nothing measurable: the budget alone decides, and is used."""
    options, group = bottleneck()
    free = {name: [Level(x.width, 0.0, x.ms, x.source) for x in own] for name, own in options.items()}
    for asked in (16.0, 12.0, 8.0):
        found = choose(free, asked, together=(group,)).table_ms
        assert 0.75 * asked <= found <= asked


def test_of_very_many_combinations_an_even_choice_is_looked_at() -> None:
    own = [(float(i), 100.0 - i) for i in range(40)]
    group = Together(("a", "b"), {"a": 100.0, "b": 100.0})
    found = joints_of([own, own], group)
    assert len(found) == MOST_JOINTS
    assert (found[0].indices, found[-1].indices) == ((0, 0), (39, 39))


def test_a_block_that_is_left_out_saves_its_time_once() -> None:
    options, group = bottleneck()
    options["c"] = [Level(8, 0.0, 5.0, "measured"), Level(4, 3.0, 4.0, "measured")]
    dense_ms = {name: options[name][0].ms for name in ("a", "b")}
    assert left_ms(dense_ms, 0.9, (group,)) == pytest.approx(0.1 * 17.0)
    drop = Drop(("a", "b"), 1.0, 17.0, "measured", left_ms(dense_ms, 0.9, (group,)))
    gone = choose(options, 8.0, drops={"block": drop}, together=(group,))
    assert gone.widths == {"a": 0, "b": 0, "c": 8, "block": 0}
    assert gone.table_ms == pytest.approx(5.0 + 1.7)
    kept = choose(options, 22.01, drops={"block": drop}, together=(group,))
    assert kept.widths == {"a": 16, "b": 16, "c": 8}
    assert fastest(options, {"block": drop}, (group,)).widths == {"a": 0, "b": 0, "c": 4, "block": 0}


@pytest.mark.parametrize("method", ["spdy", "evopress"])
def test_a_search_of_whole_models_stays_within_the_time_and_finds_the_better_pair(method: str) -> None:
    options, group = bottleneck()
    options["c"] = [Level(8, 0.0, 5.0, "measured"), Level(4, 3.0, 2.0, "measured")]
    space = Space(options, together=(group,))
    start = space.choose(12.0)

    def harm(widths: dict[str, int]) -> float:  # unlike the losses: only the second unit matters
        return 16.0 - widths["b"]

    found = search_levels(space, 12.0, start, Searching(method, 60, 0, harm), {})  # type: ignore[arg-type]
    assert found.choice.table_ms <= 12.0 * (1 + 1e-9)
    assert found.choice.widths["b"] == 16
    assert found.fitness <= found.fitness_dp


def test_whole_models_of_a_device_whose_time_is_arithmetic_lie_nearer_to_a_line() -> None:
    """Three bottlenecks: the line through two whole models tells a third one better by products than by sums."""
    times = {"a": {w: bottleneck_ms(w, 16) for w in WIDTHS}, "b": {w: bottleneck_ms(16, w) for w in WIDTHS}}
    table = make_table(1.0, **times)
    units = {name: unit.model_copy(update={"holder": "block"}) for name, unit in table.units.items()}
    table = table.model_copy(update={"units": units, "dense_ms": 20.0})
    options = {name: levels_of(unit, dict.fromkeys(range(17), 0.0), 4) for name, unit in table.units.items()}
    group = Together(("a", "b"), {name: own[0].ms for name, own in options.items()})

    def wrong(together: tuple[Together, ...]) -> float:
        known = known_wholes(table, options, 20.0, together)
        whole = {"a": 4, "b": 4}
        x = total_ms({name: table.units[name].at(width).p50_ms for name, width in whole.items()}, together)
        return abs(known.line(3.0).predict(x) - (3.0 + bottleneck_ms(4, 4)))

    assert wrong((group,)) < wrong(())
    assert saved_share(table, options, (group,)) == 1.0


def _together(name: str, depth: int, **how: object) -> list[tuple[str, ...]]:
    """The groups of a timm model whose units are held by the first parts of their names."""
    model = timm.create_model(name, num_classes=4, **how).eval()
    units = {unit.name: unit for unit in find_units(model, (3, 64, 64)).unit_by_unit}
    bare = make_table(1.0, **{unit: {2: 2.0, 1: 1.0} for unit in units})
    cells = {
        unit: found.model_copy(update={"holder": ".".join(unit.split(".")[:depth])})
        for unit, found in bare.units.items()
    }
    table = bare.model_copy(update={"units": cells})
    options = {unit: levels_of(own, dict.fromkeys((1, 2), 0.0), 1) for unit, own in table.units.items()}
    layers = {unit: layers_of(found) for unit, found in units.items()}
    return [group.units for group in together_of(options, table, layers, model)]


def test_both_widths_of_a_bottleneck_share_its_middle_layer() -> None:
    found = _together("resnet26", 2)
    assert len(found) == 8
    assert ("layer1.0.conv2", "layer1.0.conv3") in found


def test_one_width_a_block_is_alone() -> None:
    assert _together("resnet18", 2) == []


def test_what_is_timed_as_a_stretch_of_a_chain_is_alone() -> None:
    """Neighbours share a layer there too, but each is timed with other layers around it."""
    assert _together("vgg11_bn", 1) == []


def test_attention_and_the_layers_behind_it_share_none() -> None:
    """Both lie in one block, which is timed for each; they run one after the other, so what they save adds up."""
    found = _together("deit_tiny_patch16_224", 2, img_size=64)
    assert len(found) == 12
    for group in found:  # how many heads there are and how wide they are: both shrink the same layers
        assert len({".".join(name.split(".")[:3]) for name in group}) == 1
    assert ("blocks.0.attn.heads", "blocks.0.attn.head_width") in found
