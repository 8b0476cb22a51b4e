"""What every layer-wise solver must do, as a pytest suite (METHOD.md 2).

    from taco.testing import SolverContract

    class TestMine(SolverContract):
        compensates = True

        @pytest.fixture
        def solver(self):
            return load_solver("mine")

The layers have up to 256 columns, with groups, depthwise, dead inputs, fewer samples than columns, float32 and float64.
What the solver does not claim in its `patterns` is not asked of it. Not asserted, because it is false: that a better
method wins on every layer, or that a mask of the whole layer is the same for half of its rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from taco.errors import SolverError
from taco.solvers.solver import Solution, Solver
from taco.solvers.spec import Spec
from taco.testing.layers import Layer, layers, levels, live, loss, optimum

_EVERY = ("unstructured", "nm", "block", "channels")
_EXAMPLES = 12
_WIDE_COLUMNS, _WIDE_ROWS, _WIDE_SAMPLES = 4608, 16, 600

#: Few and the same examples every time: a suite that others run must not fail by luck.
_bounded = settings(
    max_examples=_EXAMPLES,
    deadline=None,
    derandomize=True,
    phases=(Phase.explicit, Phase.generate),  # shrinking would take minutes; a layer says all
    suppress_health_check=[
        HealthCheck.function_scoped_fixture,
        HealthCheck.differing_executors,
        HealthCheck.too_slow,
        HealthCheck.filter_too_much,
    ],
)
_dampings = st.sampled_from([1e-3, 1e-2, 0.3])


class SolverContract:
    """Subclass it, name the class Test..., and give it a fixture `solver`.

    Attributes:
        compensates: The weights that stay make up for those that go; else they must stay as they are.
        refits: What it gives is the least-squares optimum on its mask, to 1e-9.
        exact: Its first removal of a whole layer is the best there is.
        wide: It takes layers of 4,608 columns (marked slow).
    """

    compensates: ClassVar[bool] = True
    refits: ClassVar[bool] = False
    exact: ClassVar[bool] = False
    wide: ClassVar[bool] = False

    @pytest.fixture
    def solver(self) -> Solver:
        """Return the solver under test."""
        raise NotImplementedError("give your subclass a fixture `solver`")

    @given(layers(), _dampings)
    @_bounded
    def test_a_level_that_removes_nothing_returns_the_weights(
        self, solver: Solver, layer: Layer, damping: float
    ) -> None:
        """Level 0 is W itself, bit for bit, and costs nothing."""
        W, H = layer.make()
        nothing = [Spec(), *_that_keep_all(layer, solver)]
        for solution in solver.levels(W, H, nothing, damping):
            assert torch.equal(solution.weight, W)
            assert solution.weight.dtype == W.dtype
            assert solution.mask.all()
            assert solution.loss == 0.0

    @given(layers(), _dampings)
    @_bounded
    def test_the_mask_is_the_pattern_exactly(self, solver: Solver, layer: Layer, damping: float) -> None:
        """Exact counts over the layer; exactly n in every block along the input channels; whole blocks and channels."""
        W, H = layer.make()
        for spec, solution in _solve(solver, layer, W, H, damping):
            assert solution.mask.dtype == torch.bool
            assert solution.mask.shape == W.shape
            _assert_pattern(solution.mask, spec)
            assert solution.weight.shape == W.shape
            assert solution.weight.dtype == W.dtype
            assert solution.weight.isfinite().all()
            assert (solution.weight[~solution.mask] == 0).all()

    @given(layers(), _dampings)
    @_bounded
    def test_the_loss_is_that_of_the_weights(self, solver: Solver, layer: Layer, damping: float) -> None:
        """The loss is 1/2 tr(dW H_damped dW^T), of quantised weights too."""
        W, H = layer.make()
        total = loss(torch.zeros_like(W), W, H, damping)
        for _, solution in _solve(solver, layer, W, H, damping, extra=_quantised(layer, solver)):
            expected = loss(solution.weight, W, H, damping)
            assert solution.loss == pytest.approx(expected, rel=1e-9, abs=1e-12 * total)

    @given(layers(), _dampings)
    @_bounded
    def test_the_loss_lies_between_the_optimum_and_no_compensation(
        self, solver: Solver, layer: Layer, damping: float
    ) -> None:
        """No solution beats least squares on its own mask; compensation is never worse than none."""
        W, H = layer.make()
        total = loss(torch.zeros_like(W), W, H, damping)
        slack = (1e-10 if layer.dtype == torch.float64 else 1e-5) * total
        for _, solution in _solve(solver, layer, W, H, damping):
            plain = live(W, H) * solution.mask
            if not self.compensates:
                assert torch.equal(solution.weight, plain.to(W.dtype))
                continue
            best = loss(optimum(solution.mask, W, H, damping), W, H, damping)
            assert best - slack <= solution.loss <= loss(plain, W, H, damping) + slack
            if self.refits:
                assert solution.loss == pytest.approx(best, rel=1e-9, abs=slack)

    @given(layers(), _dampings)
    @_bounded
    def test_refitted_weights_are_the_least_squares_optimum(self, solver: Solver, layer: Layer, damping: float) -> None:
        """Equal to the explicit optimum on the same mask."""
        if not self.refits:
            pytest.skip("this solver does not claim to refit")
        W, H = (tensor.double() for tensor in layer.make())
        for _, solution in _solve(solver, layer, W, H, damping):
            best = optimum(solution.mask, W, H, damping)
            assert (solution.weight - best).abs().max() <= 1e-9 * best.abs().max().clamp_min(1.0)

    @given(layers())
    @_bounded
    def test_nm_does_not_depend_on_how_rows_are_split(self, solver: Solver, layer: Layer) -> None:
        """Every row has its own N:M answer."""
        specs = levels(layer, {"nm"} & _patterns(solver))
        if not specs:
            pytest.skip("this solver makes no N:M pattern")
        W, H = layer.make()
        half = (layer.rows + 1) // 2
        whole = solver.levels(W, H, specs)
        parts = [solver.levels(part, H, specs) for part in (W[:, :half], W[:, half:]) if part.numel()]
        alive = [i for i in range(layer.cols) if i not in layer.dead_columns]  # there, all masks are as good
        for index, solution in enumerate(whole):
            mask, weight = (torch.cat([getattr(p[index], name) for p in parts], 1) for name in ("mask", "weight"))
            assert torch.equal(mask[:, :, alive], solution.mask[:, :, alive])
            torch.testing.assert_close(weight, solution.weight, rtol=1e-4, atol=1e-4)

    @given(layers())
    @_bounded
    def test_inputs_stay_as_they_are_and_the_answer_is_always_the_same(self, solver: Solver, layer: Layer) -> None:
        """A solver is a pure function; several levels at once are the same as one by one."""
        W, H = layer.make()
        before = W.clone(), H.clone()
        specs = [*levels(layer, _patterns(solver))[:3], *_quantised(layer, solver)]
        together = solver.levels(W, H, specs)
        assert torch.equal(W, before[0])
        assert torch.equal(H, before[1])
        assert len(together) == len(specs)
        for spec, first in zip(specs, together, strict=True):
            again = solver(W, H, spec)
            assert torch.equal(first.weight, again.weight)
            assert torch.equal(first.mask, again.mask)
            assert first.loss == again.loss
            assert again.weight.data_ptr() != W.data_ptr()

    @given(layers().filter(lambda layer: bool(layer.dead)))
    @_bounded
    def test_dead_inputs_have_no_weights_and_no_say(self, solver: Solver, layer: Layer) -> None:
        """Whatever stands at an input that is always zero, the answer is finite and the same."""
        W, H = layer.make()
        dead = layer.dead_columns
        loud = W.clone()
        loud[:, :, dead] *= 1e3
        for (_, a), (_, b) in zip(_solve(solver, layer, W, H, 1e-2), _solve(solver, layer, loud, H, 1e-2), strict=True):
            assert (a.weight[:, :, dead] == 0).all()
            assert torch.equal(a.weight, b.weight)
            assert a.loss == b.loss

    @given(layers().filter(lambda layer: layer.cols >= 24), st.sampled_from([0.0, 1e-2]))
    @_bounded
    def test_a_numerical_failure_names_a_damping(self, solver: Solver, layer: Layer, damping: float) -> None:
        """No answer rather than one without compensation; with the usual damping few samples are enough."""
        W, H = layer.make()
        X = torch.randn(layer.groups, layer.cols, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        H = (layer.scale * X @ X.transpose(1, 2)).to(H.dtype)
        spec = [*levels(layer, _patterns(solver)), Spec.quantize(4)][0]
        if damping or not (self.compensates or spec.quantization):
            assert solver(W, H, spec, damping).weight.isfinite().all()
            return
        with pytest.raises(SolverError, match="damping") as caught:
            solver(W, H, spec, damping)
        assert any(character.isdigit() for character in caught.value.todo), "name a damping to try"

    @given(layers(), st.sampled_from([3, 4, 8]), st.booleans(), st.booleans())
    @_bounded
    def test_quantised_weights_are_integers_on_their_grid(
        self, solver: Solver, layer: Layer, bits: int, symmetric: bool, per_channel: bool
    ) -> None:
        """Weight = scale * (integer - zero), masked weights stay zero, and there are no more integers than bits."""
        W, H = layer.make()
        grid_spec = Spec.quantize(bits, symmetric, per_channel)
        specs = [grid_spec, *(spec.then(grid_spec) for spec in levels(layer, _patterns(solver))[:2])]
        for spec, solution in zip(specs, solver.levels(W, H, specs), strict=True):
            _assert_pattern(solution.mask, spec)
            _assert_on_grid(solution, bits, symmetric)
            if not per_channel:
                assert solution.grid is not None
                assert len(solution.grid.scale.unique()) == 1

    @pytest.mark.parametrize("seed", range(5))
    def test_the_first_weight_to_go_is_the_one_that_brute_force_finds(self, solver: Solver, seed: int) -> None:
        """Only asked of exact solvers."""
        if not self.exact:
            pytest.skip("this solver does not claim to be exact")
        W, H = Layer(groups=2, rows=2, blocks=2, seed=seed).make()
        W = W.sign() * (1 + 0.1 * W.abs())  # nearly alike: size alone finds nothing
        spec = Spec.unstructured(1 / W.numel())
        losses = []
        for index in range(W.numel()):
            mask = torch.ones(W.numel(), dtype=torch.bool)
            mask[index] = False
            mask = mask.reshape(W.shape)
            losses.append(loss(optimum(mask, W, H, 1e-2), W, H, 1e-2))
        assert solver(W, H, spec).loss == pytest.approx(min(losses), rel=1e-9)

    @pytest.mark.slow
    def test_a_layer_of_4608_columns(self, solver: Solver) -> None:
        """As wide as the widest of a ResNet; fewer samples than columns."""
        if not self.wide:
            pytest.skip("this solver does not claim to take wide layers")
        layer = Layer(rows=_WIDE_ROWS, stride=9, blocks=_WIDE_COLUMNS // 36, samples=_WIDE_SAMPLES, dtype=torch.float32)
        W, H = layer.make()
        specs = [spec for spec in levels(layer, _patterns(solver)) if spec.pattern in ("unstructured", "nm")][::2]
        for spec, solution in zip(specs, solver.levels(W, H, specs), strict=True):
            _assert_pattern(solution.mask, spec)
            expected = loss(solution.weight, W, H, 1e-2)
            assert solution.loss == pytest.approx(expected, rel=1e-6)
            plain = loss(live(W, H) * solution.mask, W, H, 1e-2)
            assert solution.loss < 0.9 * plain if self.compensates else solution.loss == pytest.approx(plain, rel=1e-6)


def _patterns(solver: Solver) -> set[str]:
    return set(getattr(solver, "patterns", _EVERY))


def _that_keep_all(layer: Layer, solver: Solver) -> list[Spec]:
    every = [
        Spec.unstructured(0),
        Spec.nm(4, 4, layer.stride),
        Spec.block(4, 0, layer.stride),
        Spec.channels(layer.cols // layer.stride, layer.stride),
    ]
    return [spec for spec in every if spec.pattern in _patterns(solver)]


def _quantised(layer: Layer, solver: Solver) -> list[Spec]:
    grid = Spec.quantize(4)
    return [grid, *(spec.then(grid) for spec in levels(layer, _patterns(solver))[-1:])]


def _solve(
    solver: Solver, layer: Layer, W: torch.Tensor, H: torch.Tensor, damping: float, extra: list[Spec] | None = None
) -> list[tuple[Spec, Solution]]:
    specs = [*levels(layer, _patterns(solver)), *(extra or [])]
    return list(zip(specs, solver.levels(W, H, specs, damping), strict=True))


def _assert_pattern(mask: torch.Tensor, spec: Spec) -> None:
    checks: dict[str, Callable[[torch.Tensor, Spec], None]] = {
        "dense": _assert_dense,
        "unstructured": _assert_count,
        "nm": _assert_nm,
        "block": _assert_blocks,
        "channels": _assert_channels,
    }
    checks[spec.pattern](mask, spec)


def _assert_dense(mask: torch.Tensor, _spec: Spec) -> None:
    assert mask.all()


def _assert_count(mask: torch.Tensor, spec: Spec) -> None:
    assert int((~mask).sum()) == round(spec.sparsity * mask.numel())


def _members(mask: torch.Tensor, spec: Spec) -> torch.Tensor:
    """Blocks along the input channels, (groups, rows, channel blocks, size, stride)."""
    return mask.reshape(*mask.shape[:2], -1, spec.size, spec.stride)


def _assert_nm(mask: torch.Tensor, spec: Spec) -> None:
    assert (_members(mask, spec).sum(3) == spec.n).all()


def _assert_blocks(mask: torch.Tensor, spec: Spec) -> None:
    blocks = _members(mask, spec)
    assert torch.equal(blocks.all(3), blocks.any(3))
    kept = blocks.all(3)
    assert int((~kept).sum()) == round(spec.sparsity * kept.numel())


def _assert_channels(mask: torch.Tensor, spec: Spec) -> None:
    channels = mask.reshape(*mask.shape[:2], -1, spec.size)
    assert torch.equal(channels.all(3), channels.any(3))
    assert torch.equal(channels.all(3).all(1), channels.any(3).any(1))  # of all rows alike
    assert (channels[:, 0, :, 0].sum(1) == spec.keep).all()


def _assert_on_grid(solution: Solution, bits: int, symmetric: bool) -> None:
    grid = solution.grid
    assert grid is not None
    integers = grid.integers(solution.weight.double())
    assert torch.equal(integers, integers.round())
    assert -(2 ** (bits - 1)) < integers.min() if symmetric else integers.min() >= 0
    assert integers.max() < 2 ** (bits - 1 if symmetric else bits)
    rebuilt = (integers - grid.zero) * grid.scale
    torch.testing.assert_close(solution.weight, rebuilt.to(solution.weight.dtype))
    assert (solution.weight[~solution.mask] == 0).all()
