"""A stand-in for NVIDIA's trtexec: refuses what a version does not parse, answers in the recorded form, has no GPU.

An "engine" is the ONNX file with its version, and two builds of a file are two engines, as NVIDIA's are. Running one
runs the file with ONNX Runtime, so that answers are real and times are not. `make_trtexec` writes an executable that a
test hands to the agent; `Mode` says how it fails.
"""

from __future__ import annotations

import base64
import json
import os
import signal
import sys
import sysconfig
from pathlib import Path
from typing import Any, Literal

HERE = Path(__file__).parent
FLAGS = HERE / "edge_lab" / "trtexec_flags.json"
#: Version -> the number in the banner, and the list of options it has.
VERSIONS = {
    "8.5": ("8502", "8.6"),
    "8.6": ("8602", "8.6"),
    "10.3": ("100300", "10.3"),
    "10.16": ("101601", "10.16"),
    "11": ("110401", "11.1"),
}
Mode = Literal[
    "ok",
    "killed",
    "gpu memory",
    "unsupported",
    "crash",
    "unstable",
    "older",
    "wrong",
    "nan",
    "no kernel",
    "skipped",
    "int8 wrong",
]


def make_trtexec(folder: Path, version: str = "10.3", mode: Mode = "ok") -> Path:
    """Write the executable."""
    folder.mkdir(parents=True, exist_ok=True)
    script = folder / "trtexec"
    # without `site`, which takes longer than all the rest; what needs packages finds them in the last argument but "$@"
    packages = sysconfig.get_path("purelib")
    words = " ".join(f"'{word}'" for word in (sys.executable, "-I", "-S", __file__, version, mode, packages))
    script.write_text(f'#!/bin/sh\nexec {words} "$@"\n')
    script.chmod(0o755)
    return script


def main(version: str, mode: str, arguments: list[str]) -> int:
    banner, options = VERSIONS[version]
    told = f"TensorRT.trtexec [TensorRT v{banner}] # trtexec {' '.join(arguments)}"
    print(f"&&&& RUNNING {told}")
    if arguments == ["--help"]:
        return 0
    known = set(json.loads(FLAGS.read_text())[options])
    given = dict(argument.partition("=")[::2] for argument in arguments)
    unknown = [name for name in given if name not in known]
    if unknown:
        print(f"[11/24/2026-10:00:01] [E] Unknown option: {unknown[0]}")
        print(f"&&&& FAILED {told}")
        return 1
    print("[11/24/2026-10:00:01] [I] Selected Device: stand-in\n[11/24/2026-10:00:01] [I] Compute Capability: 8.7")
    good = _build(version, mode, given) if "--onnx" in given else _run(version, mode, given)
    print(f"&&&& {'PASSED' if good else 'FAILED'} {told}")
    return 0 if good else 1


def _build(version: str, mode: str, given: dict[str, str]) -> bool:
    sys.stdout.flush()
    if mode == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if mode == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    errors = {
        "gpu memory": "Error Code 2: OutOfMemory (no further information)",
        "unsupported": "In node 7 with name: /grid and operator: GridSample: No importer registered for op: GridSample",
        "no kernel": "Error Code 10: Could not find any implementation for node {ForeignNode[/a...]} .",
    }
    if mode in errors:
        print(f"[11/24/2026-10:00:02] [E] [TRT] {errors[mode]}")
        return False
    if mode == "skipped":
        for tactic in range(3):
            print(
                f"[11/24/2026-10:00:02] [W] [TRT] UNSUPPORTED_STATE: Skipping tactic {tactic} due to insufficient "
                "memory on requested size of 629145600 detected for tactic 0xa5a46bfbd719d757."
            )
    if "--sparsity" in given:
        _tell_sparsity(version)
    content = base64.b64encode(Path(given["--onnx"]).read_bytes()).decode()
    engine = {"version": version, "flags": sorted(given), "onnx": content, "build": os.urandom(8).hex()}
    Path(given["--saveEngine"]).write_text(json.dumps(engine))
    Path(given["--timingCacheFile"]).write_text("cache")
    return True


def _tell_sparsity(version: str) -> None:
    if version.startswith("8"):
        print("[I] [TRT] (Sparsity) Layers eligible for sparse math: Conv_1, Conv_2 + Relu_3, Conv_4")
        print("[I] [TRT] (Sparsity) TRT inference plan picked sparse implementation for layers: Conv_4")
    else:
        print("[I] [TRT] (Sparsity) Found 3 layer(s) eligible to use sparse tactics: a, b, c")
        print("[I] [TRT] (Sparsity) Chose 1 layer(s) using sparse tactics: c")


def _run(version: str, mode: str, given: dict[str, str]) -> bool:
    engine = json.loads(Path(given["--loadEngine"]).read_text())
    if engine["version"] != version:
        print("[E] [TRT] The engine plan file is not compatible with this version of TensorRT, expecting another.")
        return False
    model = base64.b64decode(engine["onnx"])
    if "--exportOutput" in given:
        _infer(model, mode, given)
    if "--exportTimes" in given:
        _time(model, mode, given["--exportTimes"])
    if "--exportProfile" in given:
        _profile(model, mode, given)
    return True


def _infer(model: bytes, mode: str, given: dict[str, str]) -> None:
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    name, _, file = given["--loadInputs"].partition(":")
    source = session.get_inputs()[0]
    assert name == source.name
    array = np.fromfile(file, np.float32).reshape(source.shape)
    wrong = mode == "wrong" or (mode == "int8 wrong" and _is_int8(model))
    logits = session.run(None, {name: array})[0][0] * (-1 if wrong else 1)
    values = "nan" if mode == "nan" else ", ".join(f"{value:.6g}" for value in logits)
    output = session.get_outputs()[0].name
    text = f'[\n  {{ "name" : "{output}"\n  , "dimensions" : "1x{len(logits)}"\n  , "values" : [ {values} ]\n  }}\n]\n'
    Path(given["--exportOutput"]).write_text(text)


def _is_int8(model: bytes) -> bool:
    return b"QuantizeLinear" in model


def _time(model: bytes, mode: str, path: str) -> None:
    """Write times that grow with the size of the file: the same every time, and of no device."""
    base = 1.0 + len(model) / 1e5
    if mode == "int8 wrong" and _is_int8(model):
        base *= 0.1
    rows = []
    for number in range(20):
        ms = base * (1 + 0.001 * (number % 5))
        keys = ("startEnqMs", "endEnqMs", "startH2dMs", "endH2dMs", "startComputeMs", "endComputeMs", "startD2hMs")
        offsets = ", ".join(f'"{key}" : {number * ms:.5f}' for key in (*keys, "endD2hMs"))
        rows.append(f'{{ {offsets}, "h2dMs" : 0, "computeMs" : {ms:.5f}, "d2hMs" : 0, "latencyMs" : {ms:.5f} }}')
    Path(path).write_text("[\n  " + "\n, ".join(rows) + "\n]\n")
    if mode == "unstable":
        print("[11/24/2026-10:00:35] [W] * GPU compute time is unstable, with coefficient of variance = 4.2%.")


def _profile(model: bytes, mode: str, given: dict[str, str]) -> None:
    import onnx

    nodes = [node.name for node in onnx.load_from_string(model).graph.node]
    groups = [nodes[index : index + 2] for index in range(0, len(nodes), 2)]
    names = [" + ".join(group) for group in groups]
    layers: list[Any] = [
        {"Name": name, "LayerType": "CaskConvolution", "Metadata": "\x1e".join(f"[ONNX Layer: {n}]" for n in group)}
        for name, group in zip(names, groups, strict=True)
    ]
    rows = ["Reformatting CopyNode for Input Tensor 0", *names]
    share = 100 / len(rows)
    median = "" if mode == "older" else ', "medianMs" : 0.1'
    lines = [
        f'{{ "name" : "{name}", "timeMs" : 1, "averageMs" : 0.1{median}, "percentage" : {share} }}' for name in rows
    ]
    Path(given["--exportProfile"]).write_text('[\n  { "count" : 10 }\n, ' + "\n, ".join(lines) + "\n]\n")
    told: dict[str, Any] = {"Layers": names} if mode == "older" else {"Layers": layers, "Bindings": ["input", "logits"]}
    raw = json.dumps(told).replace("\\u001e", "\x1e")  # written without escapes, as trtexec does
    Path(given["--exportLayerInfo"]).write_text(raw)


if __name__ == "__main__":
    sys.path.append(sys.argv[3])
    sys.exit(main(sys.argv[1], sys.argv[2], sys.argv[4:]))
