"""Engines on this device: built once under a key, never taken for another, deserialised before they are used.

An engine belongs to one TensorRT, GPU and system, and two builds of one graph are two engines (LESSONS 47-50). The key
is made of everything that decides it; the bytes that were tested are the bytes that stay.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence

from taco.device.trt_arguments import BuildPlan, build_arguments, build_flags
from taco.device.trt_read import Log, read_log
from taco.device.trt_run import Trtexec
from taco.device.trt_versions import Recipe, in_words
from taco.device.wire import DeviceError, RequestError

FOLDER = "engines"
TIMING_CACHE = "timing.cache"
KEY_LENGTH = 16
#: Percent of the time that belongs to no module: beyond it a profile tells nothing.
MOST_UNATTRIBUTED = 99.0

Say = Callable[[str], None]


class Engine(NamedTuple):
    """An engine that lies on this device.

    `path` is the file, `facts` what is known of it (plain JSON values), `log` what the build said.
    """

    path: str
    facts: Dict[str, Any]
    log: Log


def engine_key(parts: Mapping[str, Any]) -> str:
    """Hash everything that decides an engine: the graph, TensorRT, GPU, flags, system."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:KEY_LENGTH]


class Builder:
    """Builds engines into a folder.

    Args:
        trtexec: The builder.
        recipe: Of its TensorRT.
        folder: The bundle; engines go to `engines` in it.
        system: What an engine depends on beside its graph and TensorRT: GPU and system, plain JSON values.
        workspace_mib: Scratch memory of the build.
    """

    def __init__(
        self, trtexec: Trtexec, recipe: Recipe, folder: str, system: Mapping[str, Any], workspace_mib: int
    ) -> None:
        self._trtexec, self._recipe, self._folder = trtexec, recipe, folder
        self._system, self._workspace_mib = dict(system), workspace_mib
        self.engines = os.path.join(folder, FOLDER)

    def engine(self, name: str, onnx: str, precision: str, sparse: bool, say: Say) -> Engine:
        """Return the engine of a graph, built now or before.

        Args:
            name: Of the model.
            onnx: Its graph, in the bundle.
            precision: fp32, fp16 or int8.
            sparse: Whether 2:4 kernels may be considered.
            say: Told what is being done.

        Raises:
            DeviceError: It cannot be built.
        """
        os.makedirs(self.engines, exist_ok=True)
        flags = build_flags(self._recipe, precision, sparse)
        parts = {
            "onnx_sha256": sha256_of(os.path.join(self._folder, onnx)),
            "tensorrt": in_words(self._trtexec.version),
            "flags": flags,
            **self._system,
        }
        key = engine_key(parts)
        path = os.path.join(self._folder, engine_file(name, key))
        known = self._known(path)
        if known is not None:
            say(f"engine of {name}: taken from an earlier run")
            return known
        say(f"building the engine of {name} ({precision}); this takes minutes")
        return self._build(path, onnx, precision, sparse, {**parts, "key": key})

    def _known(self, path: str) -> Optional[Engine]:
        """Return an engine of an earlier run if its bytes are the ones that were built."""
        try:
            with open(f"{path}.json", encoding="utf-8") as stream:
                facts = json.load(stream)
            log = Log(**facts["log"])
            whole = sha256_of(path) == facts["engine_sha256"]
        except (OSError, ValueError, KeyError, TypeError, RequestError):
            return None
        return Engine(path, {**facts, "from_earlier_run": True}, log) if whole else None

    def _build(self, path: str, onnx: str, precision: str, sparse: bool, parts: Dict[str, Any]) -> Engine:
        partial = f"{path}.part"
        cache = os.path.join(self.engines, TIMING_CACHE)
        before = _sha256_or_none(cache)
        plan = BuildPlan(os.path.abspath(os.path.join(self._folder, onnx)), partial, cache, precision, sparse, 0)
        plan = plan._replace(workspace_mib=self._workspace_mib)
        start = time.monotonic()
        text = self._trtexec.run(build_arguments(self._recipe, plan), f"building the engine of {onnx}", self._folder)
        _append_log(self._folder, text)
        if not os.path.isfile(partial) or not os.path.getsize(partial):
            raise DeviceError(f"trtexec said that it built {onnx} and wrote no engine", "See trtexec.log.")
        log = read_log(text)
        facts = {
            **parts,
            "engine_sha256": sha256_of(partial),
            "engine_bytes": os.path.getsize(partial),
            "build_s": round(time.monotonic() - start, 1),
            "timing_cache_before": before,
            "timing_cache_after": _sha256_or_none(cache),
            "workspace_mib": self._workspace_mib,
            "from_earlier_run": False,
            "log": log._asdict(),
        }
        os.replace(partial, path)
        write_json(f"{path}.json", facts)
        return Engine(path, facts, log)


def working(build: Callable[[], Engine], run: Callable[[Engine], Any], say: Say) -> Engine:
    """Return an engine that runs; one of an earlier run that does not is built again, once.

    Args:
        build: Gives the engine, built now or before.
        run: Runs it, and so deserialises it; raises DeviceError where it cannot.
        say: Told what is being done.

    Raises:
        DeviceError: It cannot be built, or not run although it was built now.
    """
    engine = build()
    try:
        run(engine)
    except DeviceError as error:
        if not engine.facts["from_earlier_run"]:
            raise
        say(f"an engine from an earlier run cannot be used ({error.what}): building it again")
        os.unlink(engine.path)
        engine = build()
        run(engine)
    return engine


def engine_facts(engine: Engine, precision: str, unstable: Sequence[float]) -> Dict[str, Any]:
    """Return what a report tells of an engine, plain JSON values.

    Args:
        engine: The engine.
        precision: Of its graph.
        unstable: Coefficients of variation, in percent, of the runs that trtexec called unstable.
    """
    facts = {key: value for key, value in engine.facts.items() if key != "log"}
    log = {key: getattr(engine.log, key) for key in ("gpu", "capability", "eligible", "chosen", "skipped")}
    return {**facts, **log, "precision": precision, "unstable_percent": list(unstable)}


def engine_warnings(engines: Mapping[str, Mapping[str, Any]], layers: Mapping[str, Mapping[str, Any]]) -> List[str]:
    """Say what to know of engines before their figures are believed.

    Args:
        engines: Those that are used: name -> `engine_facts`.
        layers: Where their time goes, by name: `Attribution.to_json`.
    """
    found = []
    for name, facts in engines.items():
        if facts["skipped"]:
            found.append(
                f"{facts['skipped']} kernels were not tried for the engine of {name}, because memory was short: it may "
                "be slower than it could be; close other programs and build it again"
            )
        if facts["unstable_percent"]:
            found.append(
                f"the time of {name} was unsteady in {len(facts['unstable_percent'])} runs (coefficient of variation "
                f"up to {max(facts['unstable_percent']):g} %): fix the clocks (sudo jetson_clocks) and run again"
            )
    for name, profile in layers.items():
        if profile["unattributed_percent"] > MOST_UNATTRIBUTED:
            found.append(f"this TensorRT does not tell what the layers of {name} compute: whose time it is, is unknown")
    return found


def engine_file(name: str, key: str) -> str:
    """Return where the engine of a model lies, from the folder of its graph.

    The name becomes one of a file; the key tells models apart whose names become alike.
    """
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "._@-") else "_" for c in name)
    return f"{FOLDER}/{plain}-{key}.engine"


def sha256_of(path: str) -> str:
    """Hash a file.

    Raises:
        RequestError: It cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as stream:
            for block in iter(lambda: stream.read(1 << 20), b""):
                digest.update(block)
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error.strerror}", "Copy the whole folder again.") from error
    return digest.hexdigest()


def write_json(path: str, value: Any) -> None:
    """Write plain JSON values, the whole file or none of it.

    Raises:
        DeviceError: The disk is full or not to be written to.
    """
    write_text(path, json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n")


def write_text(path: str, text: str) -> None:
    """Write a text, the whole file or none of it.

    Raises:
        DeviceError: The disk is full or not to be written to.
    """
    temporary = f"{path}.part{os.getpid()}"
    try:
        with open(temporary, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise DeviceError(f"{path} cannot be written: {error.strerror}", "Free some space, and run again.") from error


def _append_log(folder: str, text: str) -> None:
    with open(os.path.join(folder, "trtexec.log"), "a", encoding="utf-8") as stream:
        stream.write(text)


def _sha256_or_none(path: str) -> Optional[str]:
    return sha256_of(path) if os.path.isfile(path) else None


def in_order(names: Sequence[str]) -> List[str]:
    """Return names with the dense model first, which every ratio is over."""
    return ["dense", *(name for name in names if name != "dense")]
