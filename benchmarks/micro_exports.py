"""Exports of what a profile times, all parts of a model at once, against one by one.

Each part is a block at its widest or at its narrowest; the graphs are the same but for names (tests).
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks._interleave import compare
from taco.exporters.graph import export_proto
from taco.exporters.protocol import Compressed
from taco.exporters.together import export_protos
from taco.search.profile_job import Place, profiler_of
from taco.targets.loading import load_target

_MODELS = ("tf_efficientnet_lite0", "resnet18", "vit_tiny_patch16_224", "mobilenetv3_small_100", "convnext_atto")
_ROUNDS = 3


def one_by_one(parts: Sequence[Compressed]) -> None:
    """Export each by itself."""
    for part in parts:
        export_proto(part)


def main() -> None:
    """Compare for each model."""
    for name in _MODELS:
        with tempfile.TemporaryDirectory() as scratch:
            profiler = profiler_of(name, Place(load_target("host-cpu")), Path(scratch))
            parts = [end for unit in profiler.first.values() for end in profiler.graphs.ends(unit)]
            ours = functools.partial(export_protos, parts)
            compare(f"{name}, {len(parts)} parts", functools.partial(one_by_one, parts), ours, _ROUNDS)


if __name__ == "__main__":
    main()
