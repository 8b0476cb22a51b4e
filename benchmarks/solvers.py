"""Layer-wise solvers: error on inputs they have not seen, and time, on METHOD.md's recipe and on EfficientNet-Lite0.

`python -m benchmarks.solvers [--pictures FOLDER] [--save FILE]`; the folder holds one folder of pictures a class.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from benchmarks._interleave import compare
from benchmarks._page import save
from taco.calibrate import Moments, calibrate, weight_matrix
from taco.device.images import read_rgb, resize_crop, to_tensor
from taco.errors import SolverError
from taco.model import load_generalist
from taco.solvers.loading import load_solver
from taco.solvers.solver import Solver
from taco.solvers.spec import Spec

PICTURES = Path("../shared/data/animals")
SOLVERS = ("magnitude", "magnitude_refit", "fastobc", "exactobs", "admm")
CELLS = ((0.50, 2000), (0.75, 2000), (0.90, 2000), (0.75, 250), (0.90, 250))
#: METHOD.md 3, the columns in the order of SOLVERS.
METHOD = {
    (0.50, 2000): (0.056, 0.020, 0.020, 0.017, 0.017),
    (0.75, 2000): (0.245, 0.115, 0.109, 0.084, 0.083),
    (0.90, 2000): (0.585, 0.352, 0.333, 0.257, 0.250),
    (0.75, 250): (0.245, 0.137, 0.146, 0.124, 0.127),
    (0.90, 250): (0.585, 0.375, 0.387, 0.315, 0.321),
}
SEEDS, ROUNDS = range(100, 104), 3
ROWS, COLS, RANK, TESTS = 64, 192, 60, 4000
LAYERS = (
    "blocks.1.0.conv_dw",
    "blocks.1.1.conv_pw",
    "blocks.2.1.conv_dw",
    "blocks.2.1.conv_pwl",
    "blocks.3.1.conv_pwl",
    "blocks.4.1.conv_pw",
    "blocks.4.1.conv_pwl",
)
LEVELS = (0.50, 0.75, 0.90)
CLASSES, SHOTS = 10, 8
Layer = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # W, H to solve on, H held out
Table = list[Sequence[str]]


def synthetic(seed: int, n: int) -> tuple[Layer, float]:
    """Return a layer of METHOD.md's recipe and the variance of its outputs, in the units of the loss."""
    g = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=g, dtype=torch.float64)

    mixing = normal(COLS, RANK) / RANK**0.5

    def inputs(k: int) -> torch.Tensor:
        signal = mixing @ normal(RANK, k)
        return torch.relu(signal + 0.3 * normal(COLS, k) + 0.1)

    held_out = inputs(TESTS)
    scale = torch.exp(0.5 * normal(1, COLS))
    weight = normal(ROWS, COLS) * scale / COLS**0.5
    fit, outputs = inputs(n), weight @ held_out
    variance = float((outputs - outputs.mean(1, keepdim=True)).square().sum() / TESTS)
    return (weight[None], _second(fit), _second(held_out)), variance


def _second(inputs: torch.Tensor) -> torch.Tensor:
    return (2 * inputs @ inputs.T / inputs.shape[1])[None]


def error(layer: Layer, weight: torch.Tensor) -> float:
    """Return the mean squared output error on the held-out inputs."""
    D = (weight - layer[0]).double()  # noqa: N806
    return float(0.5 * ((D @ layer[2].double()) * D).sum())


def available() -> dict[str, Solver]:
    """Return the solvers that exist; one that does not is named and left out."""
    found = {}
    for name in SOLVERS:
        try:
            found[name] = load_solver(name)
        except ModuleNotFoundError:
            print(f"solver {name} is missing")
    return found


def timed(
    solvers: Mapping[str, Solver], layer: Layer, specs: Sequence[Spec], rounds: int = 1
) -> dict[str, tuple[list[float], float]]:
    """Solve all levels with every solver in turn; return the held-out errors and the median time in ms.

    A solver that refuses the layer is left out.
    """
    errors, times = dict[str, list[float]](), dict[str, list[float]]()
    for _ in range(rounds):
        for name, solver in solvers.items():
            begin = time.perf_counter()
            try:
                solutions = solver.levels(layer[0], layer[1], specs)
            except SolverError as refusal:
                print(f"{name}: {refusal}")
                continue
            times.setdefault(name, []).append(1e3 * (time.perf_counter() - begin))
            errors[name] = [error(layer, solution.weight) for solution in solutions]
    return {name: (errors[name], statistics.median(times[name])) for name in errors}


def synthetic_table(solvers: Mapping[str, Solver]) -> Table:
    """Compare on METHOD.md's recipe, its own figures in brackets."""
    rows: Table = [("sparsity, n", *solvers)]
    times: dict[str, list[float]] = {name: [] for name in solvers}
    for sparsity, n in CELLS:
        errors: dict[str, list[float]] = {name: [] for name in solvers}
        for seed in SEEDS:
            layer, variance = synthetic(seed, n)
            for name, (losses, time_ms) in timed(solvers, layer, [Spec.unstructured(sparsity)]).items():
                errors[name].append(losses[0] / variance)
                times[name].append(time_ms)
        known = dict(zip(SOLVERS, METHOD[sparsity, n], strict=True))
        cells = [f"{statistics.mean(errors[name]):.4f} ({known[name]:.3f})" for name in solvers]
        rows.append((f"{sparsity:.2f}, {n}", *cells))
    rows.append(("ms a level", *(f"{statistics.median(times[name]):.0f}" for name in solvers)))
    return rows


def real_layers(pictures: Path) -> dict[str, Layer]:
    """Calibrate layers of EfficientNet-Lite0 on one half of the pictures, and on the other."""
    generalist = load_generalist("tf_efficientnet_lite0")
    chosen = [
        read_rgb(file)
        for folder in islice(sorted(p for p in pictures.iterdir() if p.is_dir()), CLASSES)
        for file in islice(sorted(folder.iterdir()), SHOTS)
    ]
    tensors = [to_tensor(resize_crop(image, generalist.preprocessing), generalist.preprocessing) for image in chosen]
    halves: list[Mapping[str, Moments]] = []
    for half in (tensors[::2], tensors[1::2]):
        batches = torch.from_numpy(np.concatenate(half)).split(16)
        halves.append(calibrate(generalist.module, LAYERS, batches))
    modules = {name: generalist.module.get_submodule(name) for name in LAYERS}
    return {name: (weight_matrix(modules[name]), halves[0][name].H, halves[1][name].H) for name in LAYERS}  # type: ignore[arg-type]


def real_table(solvers: Mapping[str, Solver], layers: Mapping[str, Layer]) -> Table:
    """Compare on real layers: error relative to the outputs' second moment at every level / ms for all of them."""
    rows: Table = [("layer (groups, rows, cols)", *solvers)]
    specs = [Spec.unstructured(sparsity) for sparsity in LEVELS]
    for name, layer in layers.items():
        whole = error(layer, torch.zeros_like(layer[0]))
        found = timed(solvers, layer, specs, ROUNDS)
        cells = [
            " ".join(f"{e / whole:.4f}" for e in found[solver][0]) + f" / {found[solver][1]:.0f} ms"
            if solver in found
            else "refused"
            for solver in solvers
        ]
        rows.append((f"{name} {tuple(layer[0].shape)}", *cells))
    return rows


def one_row_at_a_time(W: torch.Tensor, H: torch.Tensor, sparsity: float) -> torch.Tensor:  # noqa: N803
    """Exact OBS as first written down: row by row, weight by weight, (rows, cols); the mask is per row."""
    ridge = 1e-2 * H.diagonal().mean() * torch.eye(len(H), dtype=H.dtype)
    inverse = torch.linalg.inv(H + ridge)
    V = W.clone()  # noqa: N806
    for row in V:
        left, gone = inverse.clone(), torch.zeros(len(row), dtype=torch.bool)
        for _ in range(round(sparsity * len(row))):
            diagonal = left.diagonal().clone()
            p = int((row.square() / diagonal).masked_fill(gone, torch.inf).argmin())
            row -= row[p] / diagonal[p] * left[p]
            left -= torch.outer(left[:, p], left[p]) / diagonal[p]
            gone[p] = True
            row[gone] = 0.0
            left[gone, gone] = 1.0
    return V


def against_the_loop(solvers: Mapping[str, Solver]) -> list[str]:
    """Time every solver beside the loop, one level of one layer; a sentence each."""
    (W, H, _), _ = synthetic(100, 2000)  # noqa: N806
    spec, loop = Spec.unstructured(0.75), lambda: one_row_at_a_time(W[0], H[0], 0.75)
    ways: dict[str, Callable[[], object]] = {
        name: (lambda solver=solver: solver(W, H, spec)) for name, solver in solvers.items()
    }
    return [
        f"{name}: {compare(f'{name}, {ROWS} x {COLS} at 75 %', loop, ways[name], rounds=ROUNDS):.1f} times as fast"
        for name in solvers
        if not name.startswith("magnitude")
    ]


def markdown(table: Table) -> str:
    """Return a table in Markdown."""
    head, *rows = ["| " + " | ".join(row) + " |" for row in table]
    return "\n".join([head, "|---" * len(table[0]) + "|", *rows])


def main(pictures: Path = PICTURES, page: Path | None = None) -> None:
    """Compare; without the folder of pictures, on the synthetic recipe alone."""
    torch.set_num_threads(1)
    solvers = available()
    parts = [
        "## Solvers",
        "`python -m benchmarks.solvers --save docs/benchmarks.md`, one thread. Error on inputs that the solver has not "
        "seen, damping 1e-2.",
        f"METHOD.md's recipe ({ROWS} x {COLS}, mean of {len(SEEDS)} seeds), relative to the outputs' variance; in "
        "brackets what METHOD.md says:",
        markdown(synthetic_table(solvers)),
        f"Against an exact OBS loop over rows and weights ({ROWS} x {COLS}, 75 %): "
        + "; ".join(against_the_loop(solvers))
        + ".",
    ]
    if pictures.is_dir():
        levels = ", ".join(f"{100 * level:.0f}" for level in LEVELS)
        parts += [
            f"EfficientNet-Lite0, {CLASSES} classes of real pictures, {SHOTS // 2} a class to solve on and as many "
            f"held out; relative to the outputs' second moment at {levels} % / time for all three:",
            markdown(real_table(solvers, real_layers(pictures))),
        ]
    text = "\n\n".join(parts)
    print(text)
    if page is not None:
        save(page, "solvers", text)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=Path, default=PICTURES)
    parser.add_argument("--save", type=Path)
    given = parser.parse_args()
    main(given.pictures, given.save)
