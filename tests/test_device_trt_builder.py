"""The builder script uses only names that each version's bindings have, and makes each version's choices."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tensorrt_bindings import NAMES, WHEELS, UnreachableError, real_names, stubs

from taco.device import trt_builder

RECORDED: dict[str, dict[str, list[str]]] = json.loads(NAMES.read_text())
#: Whose members return what: the class behind every call that the script goes on with.
RETURNS = {
    "create_network": "INetworkDefinition",
    "create_builder_config": "IBuilderConfig",
    "create_timing_cache": "ITimingCache",
}
ENUMS = ("BuilderFlag", "MemoryPoolType", "NetworkDefinitionCreationFlag", "ProfilingVerbosity")


class Recorder:
    """An object with the members of one class of the bindings and no other; notes what is called."""

    def __init__(self, bindings: Bindings, kind: str) -> None:
        object.__setattr__(self, "_bindings", bindings)
        object.__setattr__(self, "_kind", kind)

    def __getattr__(self, name: str) -> Any:
        self._require(name)
        if name == "num_errors":
            return 1
        return lambda *arguments, **_: self._bindings.called(name, arguments)

    def __setattr__(self, name: str, value: Any) -> None:
        self._require(name)
        self._bindings.calls.append((name, (value,)))

    def _require(self, name: str) -> None:
        if name not in self._bindings.names[self._kind]:
            raise AttributeError(f"TensorRT {self._bindings.__version__}: {self._kind} has no {name}")


class Bindings:
    """The module `tensorrt` of one version, as far as it was recorded."""

    def __init__(self, version: str, answers: dict[str, Any]) -> None:
        self.__version__ = version
        self.names = RECORDED[version]
        self.answers = answers
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        for kind in ENUMS:
            members = [name for name in self.names[kind] if name.isupper()]
            setattr(self, kind, SimpleNamespace(**{name: Number(i, name) for i, name in enumerate(members)}))
        assert "INFO" in self.names["Logger"]
        self.Logger = type("Logger", (), {"INFO": "INFO", "__init__": lambda self, level: None})

    def Builder(self, logger: Any) -> Recorder:
        return Recorder(self, "Builder")

    def OnnxParser(self, network: Any, logger: Any) -> Recorder:
        return Recorder(self, "OnnxParser")

    def Runtime(self, logger: Any) -> Recorder:
        return Recorder(self, "Runtime")

    def called(self, name: str, arguments: tuple[Any, ...]) -> Any:
        self.calls.append((name, arguments))
        if name in self.answers:
            return self.answers[name]
        return Recorder(self, RETURNS[name]) if name in RETURNS else b"engine"


class Number(int):
    """An enumerator with its name."""

    name: str

    def __new__(cls, value: int, name: str) -> Number:
        made = super().__new__(cls, value)
        made.name = name
        return made


def arguments(folder: Path, **changes: Any) -> argparse.Namespace:
    values = {
        "onnx": "m.onnx",
        "engine": str(folder / "m.engine"),
        "precision": "fp16",
        "sparse": False,
        "workspace_mib": 64,
        "timing_cache": str(folder / "t.cache"),
    }
    return argparse.Namespace(**{**values, **changes})


def build(bindings: Bindings, asked: argparse.Namespace) -> int:
    """Build where `import tensorrt` gives the recorded bindings."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "tensorrt", bindings)
        return trt_builder.build(asked)


def flags_of(bindings: Bindings) -> set[str]:
    return {arguments[0].name for name, arguments in bindings.calls if name == "set_flag"}


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("version", RECORDED)
def test_the_script_finds_every_name_it_uses(version: str, precision: str, tmp_path: Path) -> None:
    bindings = Bindings(version, {})
    asked = arguments(tmp_path, precision=precision, sparse=True)
    assert build(bindings, asked) == len(b"engine")
    assert (tmp_path / "m.engine").read_bytes() == b"engine"
    weak = version in ("8.6.1", "10.3.0")
    precisions = {"fp32": set(), "fp16": {"FP16"}, "int8": {"FP16", "INT8"}}[precision] if weak else set()
    assert flags_of(bindings) == {"SPARSE_WEIGHTS", *precisions}
    assert ("TF32" in {a[0].name for n, a in bindings.calls if n == "clear_flag"}) is (precision == "fp32")
    network = next(a[0] for n, a in bindings.calls if n == "create_network")
    kinds = bindings.NetworkDefinitionCreationFlag
    expected = {
        "8.6.1": lambda: 1 << kinds.EXPLICIT_BATCH,
        "10.3.0": lambda: 0,
        "10.16.1": lambda: 1 << kinds.STRONGLY_TYPED,
        "11.4.0": lambda: 1 << kinds.STRONGLY_TYPED if hasattr(kinds, "STRONGLY_TYPED") else 0,
    }[version]()
    assert network == expected


def test_a_name_that_a_version_lacks_is_seen() -> None:
    with pytest.raises(AttributeError, match=r"TensorRT 10\.3\.0: IBuilderConfig has no max_workspace_size"):
        Recorder(Bindings("10.3.0", {}), "IBuilderConfig").max_workspace_size = 1


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ({"parse_from_file": False, "get_error": "no GridSample"}, "m.onnx cannot be read: no GridSample"),
        ({"build_serialized_network": None}, "TensorRT built nothing"),
        ({"deserialize_cuda_engine": None}, "cannot be loaded"),
    ],
)
def test_each_failure_is_told_and_leaves_no_engine(answers: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(trt_builder.BuildError, match=words):
        build(Bindings("10.3.0", answers), arguments(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_an_old_tensorrt_is_refused(tmp_path: Path) -> None:
    bindings = Bindings("8.6.1", {})
    bindings.__version__ = "8.5.2"
    with pytest.raises(trt_builder.BuildError, match=r"TensorRT 8\.5\.2 is too old"):
        build(bindings, arguments(tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("version", WHEELS)
def test_the_recorded_names_are_those_of_nvidia_s_bindings(version: str, tmp_path: Path) -> None:
    try:
        found = real_names(version, tmp_path)
    except UnreachableError as error:
        pytest.skip(f"the bindings of TensorRT {version} cannot be had here: {error}")
    assert found == RECORDED[version]


@pytest.mark.slow
def test_the_script_s_types_are_those_of_nvidia_s_stubs(tmp_path: Path) -> None:
    try:
        typings = stubs(tmp_path)
    except UnreachableError as error:
        pytest.skip(f"the stubs of TensorRT cannot be had here: {error}")
    source = Path(trt_builder.__file__)

    (tmp_path / "mypy.ini").write_text(
        "[mypy]\nstrict = true\n[mypy-tensorrt.*]\nignore_errors = true\n[mypy-tensorrt_bindings.*]\n"
        "ignore_errors = true\n[mypy-tensorrt_libs.*]\nignore_missing_imports = true\n"
    )

    def errors(text: str) -> list[str]:
        (tmp_path / "build_engine.py").write_text(text)
        done = subprocess.run(
            [sys.executable, "-m", "mypy", "--config-file", "mypy.ini", "build_engine.py"],
            cwd=tmp_path, env={**os.environ, "MYPYPATH": str(typings)}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode in (0, 1), done.stdout + done.stderr
        return [line for line in done.stdout.splitlines() if ": error:" in line]

    assert errors(source.read_text()) == []
    wrong = source.read_text().replace("config.set_flag(flags.SPARSE_WEIGHTS)", "config.set_flag(1.5)")
    assert len(errors(wrong)) == 1, "the stubs are really looked at"
