"""A database of every layer at every level: seconds and memory from pictures to the last file, and on a Dask cluster.

`python -m benchmarks.database` does EfficientNet-Lite0 from 16 pictures of each of 10 animals; `--model resnet50
--random-weights` another; `--dask` compares one worker with two.
"""

from __future__ import annotations

import argparse
import itertools
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from benchmarks._animals import DATA
from benchmarks._peak import PeakMemory
from taco.database import LayerDatabase, Recipe, Source, choose_layers
from taco.executor import Executor
from taco.model import load_generalist
from taco.pictures.bank import BankOptions, PictureBank
from taco.pictures.listing import View
from taco.progress import PlainProgress

CLASSES, SHOTS, BATCH = 10, 16, 32


def main(arguments: Sequence[str] = ()) -> None:
    """Build and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.database", description=__doc__)
    parser.add_argument("--model", default="tf_efficientnet_lite0")
    parser.add_argument("--random-weights", action="store_true")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--executor", default="local")
    parser.add_argument("--dask", action="store_true")
    given = parser.parse_args(arguments)
    source = _source(given)
    if given.dask:
        _compare_dask(source)
        return
    with tempfile.TemporaryDirectory() as folder:
        seconds, peak, database, progress = _build(Path(folder), source, given.executor)
        levels = sum(len(database.levels(unit)) for unit in database.units)
        size = sum(database.entry(unit).size_bytes for unit in database.units)
        parts = ", ".join(f"{name} {took:.1f} s" for name, took in progress.seconds.items())
        print(
            f"{given.model}: {len(database.units)} layers, {levels} solutions, {size / 1e6:.0f} MB in {seconds:.1f} s"
        )
        print(f"  {parts}")
        print(f"  peak memory, workers included: {peak / 1e9:.2f} GB; load average {os.getloadavg()[0]:.1f}")


def _source(given: argparse.Namespace) -> Source:
    generalist = load_generalist(given.model, random_weights=given.random_weights)
    views = []
    for folder in sorted(path for path in given.data.iterdir() if path.is_dir())[:CLASSES]:
        views += [View(path) for path in itertools.islice(sorted(folder.iterdir()), SHOTS)]
    begin = time.perf_counter()
    bank = PictureBank.read(views, generalist.preprocessing, BankOptions())
    print(f"{len(bank.readable)} pictures read in {time.perf_counter() - begin:.1f} s")

    def batches() -> list[torch.Tensor]:
        return [torch.from_numpy(b) for b in bank.batches(bank.readable, BATCH)]

    module = generalist.module
    return Source(module, choose_layers(module), batches, "benchmark", len(bank.readable))


def _build(folder: Path, source: Source, executor: str) -> tuple[float, int, LayerDatabase, PlainProgress]:
    progress = PlainProgress()
    watch = PeakMemory()
    watch.start()
    begin = time.perf_counter()
    database = LayerDatabase.build(
        folder / executor.replace("/", "_"), source, Recipe(), Executor.parse(executor), progress
    )
    seconds = time.perf_counter() - begin
    return seconds, watch.stop(), database, progress


def _compare_dask(source: Source) -> None:
    """Solve on one worker and on two, one thread each; prints the ratio and whether all numbers are the same."""
    from distributed import LocalCluster

    took, indexes = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for workers in (1, 2):
            with LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None) as cluster:
                address = str(cluster.scheduler_address).replace("tcp:", "dask:")
                _, _, database, progress = _build(Path(folder), source, address)
                took[workers] = sum(s for name, s in progress.seconds.items() if name.startswith("solve"))
                indexes[workers] = database.index.model_dump_json()
                print(f"dask, {workers} workers: solved in {took[workers]:.1f} s")
        _, _, database, _ = _build(Path(folder), source, "local")
    same = np.unique([*indexes.values(), database.index.model_dump_json()]).size == 1
    print(f"two workers: {took[1] / took[2]:.2f} times as fast as one; the same bits as local: {same}")
    print(f"  load average {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
