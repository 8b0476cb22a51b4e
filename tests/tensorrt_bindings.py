"""NVIDIA's own Python bindings without its libraries: the real names of each version, over a stub that holds nothing.

The wheels of the bindings come from PyPI (1 MB each); the stub is `edge_lab/trt_stub.c`. Nothing can be built.
"""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

HERE = Path(__file__).parent
NAMES = HERE / "edge_lab" / "tensorrt_names.json"
STUB = HERE / "edge_lab" / "trt_stub.c"
#: Version that a JetPack has -> distribution, its version, and the major version in the names of the libraries.
WHEELS = {
    "8.6.1": ("tensorrt-bindings", "8.6.1", 8),
    "10.3.0": ("tensorrt-cu12-bindings", "10.3.0", 10),
    "10.16.1": ("tensorrt-cu12-bindings", "10.16.1.11", 10),
    "11.4.0": ("tensorrt-cu12-bindings", "11.4.0.106", 11),
}
#: Types only: its package `tensorrt` is empty at run time, so that it must never be installed.
STUBS = "tensorrt-stubs"
_MOST_REPAIRS = 50
#: Classes whose members the builder uses.
CLASSES = (
    *("Builder", "BuilderFlag", "IBuilderConfig", "INetworkDefinition", "ITimingCache", "Logger", "MemoryPoolType"),
    *("NetworkDefinitionCreationFlag", "OnnxParser", "ProfilingVerbosity", "Runtime"),
)
_LIBRARIES = ("nvinfer", "nvinfer_plugin", "nvonnxparser", "nvparsers")
_DUMP = """
import json, sys
import tensorrt_bindings as trt
names = {name: sorted(n for n in dir(getattr(trt, name)) if not n.startswith("_")) for name in sys.argv[1:]}
print(json.dumps({"version": trt.__version__, "classes": names}))
"""


class UnreachableError(Exception):
    """The bindings cannot be had here; the text says why."""


def real_names(version: str, folder: Path) -> dict[str, list[str]]:
    """Return the members of `CLASSES` in the real bindings of a version.

    Raises:
        UnreachableError: The wheel or a compiler is missing.
    """
    distribution, exact, major = WHEELS[version]
    _unpacked(f"{distribution}=={exact}", folder, folder / "site")
    for library in _LIBRARIES:
        name = f"lib{library}.so.{major}"
        options = ["-shared", "-fPIC", "-w", f"-DVER={major}0000", f"-Wl,-soname,{name}", "-o", str(folder / name)]
        _run(["cc", *options, str(STUB)], folder)
    environment = {**os.environ, "LD_LIBRARY_PATH": str(folder), "PYTHONPATH": str(folder / "site")}
    found = json.loads(_run([sys.executable, "-W", "ignore", "-c", _DUMP, *CLASSES], folder, environment))
    assert found["version"].startswith(version)
    classes: dict[str, list[str]] = found["classes"]
    return classes


def stubs(folder: Path) -> Path:
    """Return a folder with the types of the bindings.

    A few signatures in it are no Python (`in` as a parameter's name): those take anything.

    Raises:
        UnreachableError: They cannot be had.
    """
    site = folder / "typings"
    _unpacked(STUBS, folder, site)
    for file in site.rglob("*.pyi"):
        file.write_text(_parsable(file.read_text()))
    return site


def _parsable(text: str) -> str:
    lines = text.splitlines()
    for _ in range(_MOST_REPAIRS):
        try:
            ast.parse("\n".join(lines))
            return "\n".join(lines) + "\n"
        except SyntaxError as error:
            place = (error.lineno or 1) - 1
        while not (match := re.match(r"( *)def (\w+)\(", lines[place])):
            place -= 1
        lines[place] = f"{match[1]}def {match[2]}(self, *args: typing.Any, **kwargs: typing.Any) -> typing.Any:"
    raise UnreachableError(f"the stubs cannot be parsed after {_MOST_REPAIRS} repairs")


def _unpacked(requirement: str, folder: Path, site: Path) -> None:
    """Download one wheel and unpack it; nothing is installed."""
    pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "-d", str(folder)]
    _run([*pip, requirement], folder)
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as archive:
        archive.extractall(site)


def _run(command: list[str], folder: Path, environment: dict[str, str] | None = None) -> str:
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
        )
    except FileNotFoundError as error:
        raise UnreachableError(f"{command[0]} is not installed") from error
    if done.returncode:
        raise UnreachableError(f"{' '.join(command[:5])}: {done.stderr.strip()[-300:]}")
    return done.stdout


if __name__ == "__main__":
    import tempfile

    found = {}
    for version in WHEELS:
        with tempfile.TemporaryDirectory() as scratch:
            found[version] = real_names(version, Path(scratch))
    NAMES.write_text(json.dumps(found, indent=0, sort_keys=True) + "\n")
