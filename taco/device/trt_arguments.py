"""trtexec's arguments for each TensorRT: flags that mean the same on 8.6 to 11 are always given.

TensorRT 11 turned several defaults round (CUDA graphs on, transfers off), so that leaving a flag out would time two
different things. Which trtexec parses which flag: tests/edge_lab/trtexec_flags.json.
"""

from __future__ import annotations

from typing import List, NamedTuple

from taco.device.trt_versions import Recipe

WARM_UP_MS = 200
PERCENTILES = "50,90,99"
_ONCE = ("--warmUp=0", "--duration=0", "--iterations=1", "--avgRuns=1")


class BuildPlan(NamedTuple):
    """One engine to build.

    `onnx`, `engine` and `timing_cache` are paths; `precision` is fp32, fp16 or int8; `sparse` lets the builder consider
    2:4 kernels; `workspace_mib` bounds its scratch memory.
    """

    onnx: str
    engine: str
    timing_cache: str
    precision: str
    sparse: bool
    workspace_mib: int


def build_arguments(recipe: Recipe, plan: BuildPlan) -> List[str]:
    """Return the arguments that build an engine and run nothing."""
    return [
        f"--onnx={plan.onnx}",
        f"--saveEngine={plan.engine}",
        f"--timingCacheFile={plan.timing_cache}",
        *build_flags(recipe, plan.precision, plan.sparse),
        f"--memPoolSize=workspace:{plan.workspace_mib}",
    ]


def build_flags(recipe: Recipe, precision: str, sparse: bool) -> List[str]:
    """Return the flags that decide what an engine is; they are part of its key."""
    flags = ["--skipInference", "--profilingVerbosity=detailed"]
    if recipe.strong:
        flags.append("--stronglyTyped")
    elif precision != "fp32":
        flags += ["--fp16", "--int8"] if precision == "int8" else ["--fp16"]
    if precision == "fp32":
        flags.append("--noTF32")
    # The lines that tell which layers got sparse kernels are printed in verbose logs only by some versions.
    return [*flags, "--sparsity=enable", "--verbose"] if sparse else flags


def time_arguments(engine: str, times: str, seconds: float) -> List[str]:
    """Return the arguments that time an engine, unprofiled, and write every sample."""
    return [f"--loadEngine={engine}", *_timing(seconds), f"--exportTimes={times}"]


def load_arguments(engine: str) -> List[str]:
    """Return the arguments that load an engine and run it as briefly as can be."""
    return [f"--loadEngine={engine}", *_ONCE]


def profile_arguments(engine: str, profile: str, layers: str, seconds: float) -> List[str]:
    """Return the arguments that time the layers of an engine; its total is no latency."""
    return [
        f"--loadEngine={engine}",
        *_timing(seconds),
        "--dumpProfile",
        f"--exportProfile={profile}",
        f"--exportLayerInfo={layers}",
        "--profilingVerbosity=detailed",
    ]


def infer_arguments(recipe: Recipe, engine: str, name: str, source: str, result: str) -> List[str]:
    """Return the arguments that run one picture.

    Args:
        recipe: Of the TensorRT.
        engine: Path of the engine.
        name: Of its input.
        source: File with the raw float32 input.
        result: JSON file that is written.
    """
    moved = ["--includeDataTransfers"] if recipe.family == "11" else []
    return [f"--loadEngine={engine}", f"--loadInputs={name}:{source}", *moved, *_ONCE, f"--exportOutput={result}"]


def _timing(seconds: float) -> List[str]:
    return [
        "--useCudaGraph",
        "--noDataTransfers",
        "--useSpinWait",
        "--separateProfileRun",
        f"--warmUp={WARM_UP_MS}",
        f"--duration={seconds:g}",
        f"--percentile={PERCENTILES}",
    ]
