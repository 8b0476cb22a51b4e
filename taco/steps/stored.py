"""Steps whose results are tensors: computed once, stored as safetensors, read back on the next run."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors.numpy
import safetensors.torch
import torch

from taco.exporters.protocol import Artifact
from taco.metrics.gates import Agreement
from taco.metrics.parity import ParityResult
from taco.moments.sums import Moments
from taco.recover import Recovered
from taco.rundir import RunDir
from taco.specialist.head import Candidate, Linear, Without
from taco.steps.judge import Judgement

Key = Mapping[str, Any]
_WITHOUT = ("index", "weight", "bias")


@dataclasses.dataclass(frozen=True, slots=True)
class Store:
    """Typed access to the steps of one run; every method takes the step's key and how to compute it."""

    rundir: RunDir

    def head(self, key: Key, compute: Callable[[], Linear]) -> Linear:
        """Return the specialist's head."""

        def save(path: Path) -> dict[str, Any]:
            head = compute()
            tensors = {"weight": head.weight, "bias": head.bias, **{f"tuned|{n}": t for n, t in head.tuned.items()}}
            for number, one in enumerate(head.without):
                tensors |= {f"without|{number}|{part}": getattr(one, part) for part in _WITHOUT}
            _save(path, tensors)
            return {"description": head.description, "candidates": [dataclasses.asdict(c) for c in head.candidates]}

        file, facts = self.rundir.file_step("head", key, ".safetensors", save)
        tensors = safetensors.torch.load_file(file)
        tuned = {name.removeprefix("tuned|"): t for name, t in tensors.items() if name.startswith("tuned|")}
        candidates = tuple(Candidate(**candidate) for candidate in facts["candidates"])
        count = sum(name.startswith("without|") for name in tensors) // len(_WITHOUT)
        without = tuple(Without(*(tensors[f"without|{number}|{part}"] for part in _WITHOUT)) for number in range(count))
        return Linear(tensors["weight"], tensors["bias"], facts["description"], candidates, tuned, without)

    def moments(self, key: Key, compute: Callable[[], Mapping[str, Moments]]) -> dict[str, Moments]:
        """Return the second moments of every calibrated layer's input."""

        def save(path: Path) -> dict[str, int]:
            found = compute()
            _save(path, {f"{n}|{part}": getattr(m, part) for n, m in found.items() for part in ("second", "mean")})
            return {name: m.n for name, m in found.items()}

        file, counts = self.rundir.file_step("moments", key, ".safetensors", save)
        tensors = safetensors.torch.load_file(file)
        return {name: Moments(tensors[f"{name}|second"], tensors[f"{name}|mean"], n) for name, n in counts.items()}

    def artifact(self, name: str, key: Key, export: Callable[[Path], Artifact]) -> Artifact:
        """Return an exported file."""

        def save(path: Path) -> dict[str, Any]:
            facts = dataclasses.asdict(export(path))
            del facts["path"]
            return facts

        file, facts = self.rundir.file_step(name, key, ".onnx", save)
        return Artifact.from_json(file, facts)

    def module(
        self, name: str, key: Key, into: torch.nn.Module, compute: Callable[[], tuple[torch.nn.Module, dict[str, Any]]]
    ) -> dict[str, Any]:
        """Load a computed module's weights `into` one of the same shape; returns the facts beside them, JSON values."""

        def save(path: Path) -> dict[str, Any]:
            found, facts = compute()
            _save(path, found.state_dict())
            return facts

        file, facts = self.rundir.file_step(name, key, ".safetensors", save)
        into.load_state_dict(safetensors.torch.load_file(file))
        return dict(facts)

    def recovered(self, key: Key, start: torch.nn.Module, compute: Callable[[], Recovered]) -> Recovered:
        """Return a recovered model; the weights are loaded into `start`."""

        def save(path: Path) -> dict[str, Any]:
            found = compute()
            _save(path, found.module.state_dict())
            return {f.name: getattr(found, f.name) for f in dataclasses.fields(Recovered) if f.name != "module"}

        file, facts = self.rundir.file_step("recovered", key, ".safetensors", save)
        start.load_state_dict(safetensors.torch.load_file(file))
        return Recovered(**{**facts, "module": start, "history": tuple(map(tuple, facts["history"]))})

    def judgement(self, key: Key, compute: Callable[[], Judgement]) -> Judgement:
        """Return the answers of every stage on the judged pictures."""

        def save(path: Path) -> dict[str, Any]:
            found = compute()
            names = _names(Judgement, "parity", "agreement")
            arrays: dict[str, npt.NDArray[Any]] = {n: getattr(found, n) for n in names}
            path.write_bytes(safetensors.numpy.save({n: np.ascontiguousarray(a) for n, a in arrays.items()}))
            return {n: dataclasses.asdict(getattr(found, n)) for n in ("parity", "agreement")}

        file, facts = self.rundir.file_step("judgement", key, ".safetensors", save)
        return Judgement(
            **safetensors.numpy.load_file(file),
            parity=ParityResult(**facts["parity"]),
            agreement=Agreement(**facts["agreement"]),
        )


def _names(kind: type[Judgement], *without: str) -> list[str]:
    return [f.name for f in dataclasses.fields(kind) if f.name not in without]


def _save(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write tensors; a full disk is an OSError, which the library's own writer hides."""
    path.write_bytes(safetensors.torch.save({name: tensor.detach().contiguous() for name, tensor in tensors.items()}))
