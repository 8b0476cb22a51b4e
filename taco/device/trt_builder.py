#!/usr/bin/env python3
"""Build a TensorRT engine through the Python API, where trtexec is not installed; needs nothing but `tensorrt`.

    python3 build_engine.py model.onnx model.engine --precision fp16

TensorRT 8.6 to 11. The same choices as the agent's: networks are strongly typed from 10.12 on; before that flags
allow FP16 and INT8.

Not run on hardware: its names are checked against NVIDIA's own bindings of 8.6.1, 10.3.0, 10.16.1 and
11.4.0.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING, List, Optional, Tuple

if TYPE_CHECKING:
    import tensorrt as trt

OLDEST = (8, 6)
STRONG_FROM = (10, 12)


class BuildError(Exception):
    """The engine cannot be built; the text says why."""


def main(argv: Optional[List[str]] = None) -> int:
    """Build one engine; returns the exit code."""
    parser = argparse.ArgumentParser(
        description="Build a TensorRT engine from an ONNX file, on the device that runs it."
    )
    parser.add_argument("onnx", help="the ONNX file")
    parser.add_argument("engine", help="the engine to write")
    parser.add_argument("--precision", choices=("fp32", "fp16", "int8"), default="fp16", help="of the graph")
    parser.add_argument("--sparse", action="store_true", help="let the builder consider 2:4 kernels")
    parser.add_argument("--workspace-mib", type=int, default=1024, help="scratch memory of the builder")
    parser.add_argument("--timing-cache", default="timing.cache", help="kept between builds")
    asked = parser.parse_args(argv)
    try:
        print(f"engine written: {build(asked)} bytes")
    except ImportError as error:
        print(f"error: tensorrt cannot be imported: {error}. On a Jetson: sudo apt install python3-libnvinfer")
        return 5
    except BuildError as error:
        print(f"error: {error}", file=sys.stderr)
        return 5
    return 0


def build(asked: argparse.Namespace) -> int:
    """Build, check that the engine deserialises, write it.

    Args:
        asked: The arguments.

    Returns:
        The engine's size in bytes.

    Raises:
        BuildError: It cannot be built or used.
        ImportError: There are no bindings of TensorRT.
    """
    import tensorrt as trt

    version = version_of(trt.__version__)
    if version < OLDEST:
        raise BuildError(f"TensorRT {trt.__version__} is too old: install 8.6 or later")
    logger = trt.Logger(trt.Logger.INFO)
    builder = trt.Builder(logger)
    network = builder.create_network(network_flags(version))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(os.path.abspath(asked.onnx)):
        reasons = "; ".join(str(parser.get_error(index)) for index in range(parser.num_errors))
        raise BuildError(f"{asked.onnx} cannot be read: {reasons}")
    config = builder.create_builder_config()
    configure(config, version, asked)
    cache = config.create_timing_cache(_bytes_of(asked.timing_cache))
    config.set_timing_cache(cache, ignore_mismatch=False)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise BuildError("TensorRT built nothing: its messages above say why; too little memory is the usual reason")
    content = bytes(plan)
    if trt.Runtime(logger).deserialize_cuda_engine(content) is None:
        raise BuildError("the engine that was built cannot be loaded")
    _write(asked.engine, content)
    _write(asked.timing_cache, bytes(cache.serialize()))
    return len(content)


def version_of(text: str) -> Tuple[int, int]:
    """Return major and minor version."""
    major, minor = text.split(".")[:2]
    return int(major), int(minor)


def network_flags(version: Tuple[int, int]) -> int:
    """Return the flags of a network; 10 and later are always explicit about the batch, 11 always strongly typed."""
    import tensorrt as trt

    kinds = trt.NetworkDefinitionCreationFlag
    if version >= STRONG_FROM:
        return 1 << int(kinds.STRONGLY_TYPED) if hasattr(kinds, "STRONGLY_TYPED") else 0
    return 1 << int(kinds.EXPLICIT_BATCH) if version < (10, 0) else 0


def configure(config: trt.IBuilderConfig, version: Tuple[int, int], asked: argparse.Namespace) -> None:
    """Set memory, profiling and what the builder may choose."""
    import tensorrt as trt

    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, asked.workspace_mib << 20)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    flags = trt.BuilderFlag
    if asked.sparse:
        config.set_flag(flags.SPARSE_WEIGHTS)
    if asked.precision == "fp32":
        config.clear_flag(flags.TF32)
    elif version < STRONG_FROM:
        config.set_flag(flags.FP16)
        if asked.precision == "int8":
            config.set_flag(flags.INT8)


def _bytes_of(path: str) -> bytes:
    """Return a file's content, nothing where there is none."""
    if not os.path.isfile(path):
        return b""
    with open(path, "rb") as stream:
        return stream.read()


def _write(path: str, content: bytes) -> None:
    """Write a file, whole or not at all."""
    temporary = f"{path}.part{os.getpid()}"
    with open(temporary, "wb") as stream:
        stream.write(content)
    os.replace(temporary, path)


if __name__ == "__main__":
    sys.exit(main())
