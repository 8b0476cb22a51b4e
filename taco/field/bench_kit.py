"""What a person needs to measure on a computer that is not attached: the agent, its request, the dense model."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from taco.attached.agent_pack import agent_bytes
from taco.pipeline import Finished


def bench_kit(done: Finished) -> dict[str, Path | bytes]:
    """Return the files that lie beside the bundle: name -> content, or a finished file."""
    protocol, models = done.plan.target.benchmark, {"dense": "dense.onnx", "compressed": "model.onnx"}
    in_fp32: dict[str, Path | bytes] = {}
    if done.compressed.shipped is not done.compressed.fp32:
        in_fp32 = {"dense.fp32.onnx": done.dense.fp32.path, "model.fp32.onnx": done.compressed.fp32.path}
        models |= {"baseline_fp32": "dense.fp32.onnx", "compressed_fp32": "model.fp32.onnx"}
    request = {
        "models": models,
        "threads": done.plan.options.threads or done.plan.target.threads,
        "provider": done.plan.target.provider,
        **dataclasses.asdict(protocol),
    }
    return {
        "agent.pyz": agent_bytes(),
        "bench.json": (json.dumps(request, indent=2) + "\n").encode(),
        "dense.onnx": done.dense.shipped.path,
        **in_fp32,
    }
