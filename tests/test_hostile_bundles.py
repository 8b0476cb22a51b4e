"""Bundles that were damaged or made to do harm: each is refused with its reason, by verify and by predict alike."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from tiny_bundle import RED, colour_model, make_bundle, paint

from taco import api
from taco.bundle import MANIFEST, Manifest, read_manifest
from taco.errors import BundleError, GateError
from taco.verify import PARITY_FILE, open_bundle, parity_inputs, verify

INPUTS = np.random.default_rng(0).standard_normal((3, 3, 32, 32)).astype(np.float32)
LOGITS = (4 * INPUTS.mean((2, 3))).astype(np.float32)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    folder = tmp_path / "bundle"
    make_bundle(folder)
    forge(folder, PARITY_FILE, safetensors.numpy.save({"input": INPUTS, "logits": LOGITS}))
    return folder


def edit(folder: Path, **changes: Any) -> None:
    raw = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(raw | changes))


def forge(folder: Path, name: str, content: bytes) -> None:
    """Change a file and the manifest's hash with it, as whoever means harm would."""
    (folder / name).write_bytes(content)
    raw = json.loads((folder / MANIFEST).read_text())
    raw["files"][name] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    (folder / MANIFEST).write_text(json.dumps(raw))


def cut(folder: Path, name: str, share: float) -> None:
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: int(len(content) * share)])


def flip(folder: Path, name: str) -> None:
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 0xFF
    (folder / name).write_bytes(bytes(content))


def model(folder: Path, change: Callable[[onnx.ModelProto], object]) -> None:
    proto = onnx.load_model_from_string(colour_model())
    change(proto)
    forge(folder, "model.onnx", proto.SerializeToString())


def replace_weight(proto: onnx.ModelProto, tensor: onnx.TensorProto) -> None:
    proto.graph.initializer[0].CopyFrom(tensor)


def outside(proto: onnx.ModelProto, location: str) -> None:
    weight = proto.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value=location)


def absurd_weight(proto: onnx.ModelProto, *dims: int) -> None:
    del proto.graph.initializer[0].dims[:]
    proto.graph.initializer[0].dims.extend(dims)


def blow_up(proto: onnx.ModelProto) -> None:
    """A few bytes that ask for terabytes."""
    shape = numpy_helper.from_array(np.array([10**6, 10**6], np.int64), "shape")
    proto.graph.initializer.append(shape)
    proto.graph.node.insert(0, helper.make_node("ConstantOfShape", ["shape"], ["huge"], "bomb"))


def free_size(proto: onnx.ModelProto) -> None:
    proto.graph.node.insert(0, helper.make_node("NonZero", ["input"], ["unknown"], "free"))


def loop(proto: onnx.ModelProto) -> None:
    body = helper.make_graph([], "body", [], [])
    proto.graph.node.insert(0, helper.make_node("Loop", ["", ""], [], "endless", body=body))


def branch(proto: onnx.ModelProto) -> None:
    body = helper.make_graph([helper.make_node("Identity", ["input"], ["y"])], "body", [], [])
    node = helper.make_node("If", ["w"], ["z"], "fork", then_branch=body, else_branch=body)
    proto.graph.node.insert(0, node)


def foreign_node(proto: onnx.ModelProto) -> None:
    proto.graph.node[0].domain = "com.acme"


def custom_set(proto: onnx.ModelProto) -> None:
    proto.opset_import.append(helper.make_opsetid("com.microsoft", 1))


def function(proto: onnx.ModelProto) -> None:
    node = helper.make_node("Identity", ["x"], ["y"])
    proto.functions.append(helper.make_function("", "f", ["x"], ["y"], [node], [helper.make_opsetid("", 17)]))


def second_input(proto: onnx.ModelProto) -> None:
    proto.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, [1]))


def second_output(proto: onnx.ModelProto) -> None:
    proto.graph.output.append(helper.make_tensor_value_info("pooled", TensorProto.FLOAT, [1, 3, 1, 1]))


def free_batch(proto: onnx.ModelProto) -> None:
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "n"


def halves(proto: onnx.ModelProto) -> None:
    proto.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT16


def more_classes(proto: onnx.ModelProto) -> None:
    proto.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 4


def cycle(proto: onnx.ModelProto) -> None:
    proto.graph.node[0].input[0] = "logits"


def no_operator(proto: onnx.ModelProto) -> None:
    proto.graph.node[0].op_type = "LaunchMissiles"


def newer_opset(proto: onnx.ModelProto) -> None:
    proto.opset_import[0].version = 999


def raw_cut(proto: onnx.ModelProto) -> None:
    proto.graph.initializer[0].raw_data = proto.graph.initializer[0].raw_data[:-1]


def weight_type(proto: onnx.ModelProto) -> None:
    proto.graph.initializer[0].data_type = 999


def not_finite(proto: onnx.ModelProto) -> None:
    replace_weight(proto, numpy_helper.from_array(np.full((3, 3), np.nan, np.float32), "w"))


def sparse(proto: onnx.ModelProto) -> None:
    proto.graph.sparse_initializer.add()


def constant_outside(proto: onnx.ModelProto) -> None:
    node = helper.make_node("Constant", [], ["c"], "c", value=numpy_helper.from_array(np.zeros(1, np.float32), "c"))
    node.attribute[0].t.data_location = TensorProto.EXTERNAL
    node.attribute[0].t.external_data.add(key="location", value="/etc/passwd")
    proto.graph.node.insert(0, node)


def parity(folder: Path, inputs: Any = INPUTS, logits: Any = LOGITS) -> None:
    forge(folder, PARITY_FILE, safetensors.numpy.save({"input": inputs, "logits": logits}))


def rename(folder: Path, name: str) -> None:
    raw = json.loads((folder / MANIFEST).read_text())
    raw["files"][name] = raw["files"].pop("model.onnx")
    (folder / MANIFEST).write_text(json.dumps(raw | {"model_file": name}))


def preprocessing(folder: Path, **changes: Any) -> None:
    raw = json.loads((folder / "preprocessing.json").read_text())
    forge(folder, "preprocessing.json", json.dumps(raw | changes).encode())


def remove(folder: Path, name: str) -> None:
    (folder / name).unlink()


def link_out(folder: Path) -> None:
    """A link in place of the model, to a file of the same bytes elsewhere: same hash, but it must exist there."""
    remove(folder, "model.onnx")
    (folder / "model.onnx").symlink_to(folder.parent / "gone.onnx")


@dataclasses.dataclass(frozen=True)
class Harm:
    """What is done to a bundle, what the message must say, and whether predict meets it too."""

    name: str
    do: Callable[[Path], object]
    says: str
    predict: bool = True


def onnx_harm(name: str, change: Callable[[onnx.ModelProto], object], says: str) -> Harm:
    return Harm(f"onnx {name}", lambda folder: model(folder, change), says)


FILES = ("model.onnx", "labels.txt", "preprocessing.json")
HARMS = (
    *(Harm(f"{n} cut at {s}", lambda f, n=n, s=s: cut(f, n, s), "is not the file") for n in FILES for s in (0.0, 0.5)),
    *(Harm(f"{n} flipped", lambda f, n=n: flip(f, n), "is not the file") for n in FILES),
    *(Harm(f"{n} gone", lambda f, n=n: remove(f, n), "cannot be read") for n in FILES),
    Harm("manifest gone", lambda f: remove(f, MANIFEST), "is not a bundle"),
    *(Harm(f"manifest cut at {s}", lambda f, s=s: cut(f, MANIFEST, s), "is not JSON") for s in (0.0, 0.3, 0.9)),
    Harm("newer schema", lambda f: edit(f, schema_version=2), "reads up to 1"),
    Harm("schema of a far future", lambda f: edit(f, schema_version=10**30), "reads up to 1"),
    Harm("schema no number", lambda f: edit(f, schema_version="1; rm"), "schema_version"),
    Harm("unknown field", lambda f: edit(f, command="rm -rf /"), "command"),
    Harm("no classes", lambda f: edit(f, classes=[]), "classes"),
    Harm("other classes", lambda f: edit(f, classes=["a", "b", "c"]), "different classes"),
    Harm("more classes", lambda f: edit(f, classes=["fox", "hare", "blank", "elk"]), "different classes"),
    Harm("files no table", lambda f: edit(f, files=[]), "files"),
    Harm("hash no hash", lambda f: edit(f, files={"model.onnx": {"sha256": "0", "bytes": 1}}), "sha256"),
    *(
        Harm(f"model at {name!r}", lambda f, name=name: rename(f, name), "leaves the bundle|does not list|printable")
        for name in ("../model.onnx", "/etc/passwd", "a/../../b", "..\\model.onnx", "mod\nel.onnx")
    ),
    Harm("model a dangling link", link_out, "cannot be read"),
    onnx_harm("weights outside", lambda p: outside(p, "../../secret.bin"), "lies outside the file"),
    onnx_harm("weights in /dev/zero", lambda p: outside(p, "/dev/zero"), "lies outside the file"),
    onnx_harm("constant outside", constant_outside, "lies outside the file"),
    onnx_harm("absurd weight", lambda p: absurd_weight(p, 2**31, 2**31), "absurd shape"),
    onnx_harm("overflowing weight", lambda p: absurd_weight(p, 2**32, 2**32, 2**32), "absurd shape"),
    onnx_harm("negative weight", lambda p: absurd_weight(p, -3, 3), "absurd shape"),
    onnx_harm("other weight shape", lambda p: absurd_weight(p, 3, 4), "is damaged"),
    onnx_harm("weight cut", raw_cut, "is damaged"),
    onnx_harm("weight of no type", weight_type, "unknown type"),
    onnx_harm("weight not finite", not_finite, "no finite number"),
    onnx_harm("sparse weights", sparse, "sparse weights"),
    onnx_harm("memory bomb", blow_up, "absurd shape"),
    onnx_harm("size not known", free_size, "is not known before it runs"),
    onnx_harm("loop", loop, "branches or loops"),
    onnx_harm("branch", branch, "branches or loops"),
    onnx_harm("foreign operator", foreign_node, "operators of 'com.acme'"),
    onnx_harm("foreign operator set", custom_set, "operators of 'com.microsoft'"),
    onnx_harm("function", function, "defines functions"),
    onnx_harm("second input", second_input, "its input is"),
    onnx_harm("second output", second_output, "its output is"),
    onnx_harm("free batch", free_batch, "its input is"),
    onnx_harm("half precision input", halves, "its input is"),
    onnx_harm("more logits", more_classes, "its output is"),
    onnx_harm("cycle", cycle, "not valid ONNX"),
    onnx_harm("unknown operator", no_operator, "not valid ONNX"),
    onnx_harm("newer opset", newer_opset, "not valid ONNX"),
    Harm("onnx empty, hash forged", lambda f: forge(f, "model.onnx", b""), "has no operators"),
    Harm("onnx text, hash forged", lambda f: forge(f, "model.onnx", b"#!/bin/sh\nrm -rf /"), "is not an ONNX file"),
    Harm("onnx cut, hash forged", lambda f: forge(f, "model.onnx", colour_model()[:-30]), "not an ONNX|refused"),
    Harm("pickle as model", lambda f: forge(f, "model.onnx", b"\x80\x04\x95\x10\x00"), "is not an ONNX file"),
    Harm("picture of another size", lambda f: preprocessing(f, input_size=[3, 64, 64]), "its input is"),
    Harm("picture of absurd size", lambda f: preprocessing(f, input_size=[3, 10**9, 10**9]), "its input is"),
    Harm("preprocessing not finite", lambda f: preprocessing(f, std=[0, 0, 0]), "cannot be used"),
    Harm("parity gone", lambda f: remove(f, PARITY_FILE), "cannot be read", predict=False),
    Harm("parity text", lambda f: forge(f, PARITY_FILE, b"hello"), "cannot be used", predict=False),
    Harm("parity empty", lambda f: parity(f, INPUTS[:0], LOGITS[:0]), "does not fit", predict=False),
    Harm("parity of other size", lambda f: parity(f, INPUTS[:, :, :8]), "does not fit", predict=False),
    Harm("parity of other kind", lambda f: parity(f, INPUTS.astype(np.float64)), "no float32", predict=False),
    Harm("parity not finite", lambda f: parity(f, INPUTS * np.float32(np.inf)), "no finite number", predict=False),
)


def test_there_are_sixty_of_them() -> None:
    assert len({harm.name for harm in HARMS}) == len(HARMS) >= 60


def test_an_undamaged_bundle_passes(bundle: Path) -> None:
    gates = verify(bundle, 1)
    assert [gate.passed for gate in gates] == [True] * 3
    assert parity_inputs(open_bundle(bundle))[0].shape == (3, 3, 32, 32)


@pytest.mark.parametrize("harm", HARMS, ids=lambda harm: harm.name)
def test_each_is_refused_with_its_reason(bundle: Path, harm: Harm) -> None:
    harm.do(bundle)
    with pytest.raises(BundleError, match=harm.says) as caught:
        verify(bundle, 1)
    assert caught.value.exit_code == 2
    assert caught.value.todo
    assert len(str(caught.value)) < 800
    picture = paint(bundle.parent / "red.png", RED)
    if harm.predict:
        with pytest.raises(BundleError, match=harm.says):
            api.classify(bundle, [picture], 1)
    else:
        assert api.classify(bundle, [picture], 1)[0].label == "fox"


def test_other_answers_than_expected_fail_the_check(bundle: Path) -> None:
    parity(bundle, INPUTS, LOGITS[::-1].copy())
    gate = verify(bundle, 1)[-1]
    assert gate.passed is False
    edit(bundle, precision="int8")
    assert verify(bundle, 1)[-1].passed is False


def test_what_was_forced_stays_a_failed_check(bundle: Path) -> None:
    edit(bundle, forced=["conversion"])
    failed = [gate for gate in verify(bundle, 1) if gate.passed is False]
    assert [gate.measured for gate in failed] == ["overruled by --force: conversion"]


def test_verify_needs_no_torch(bundle: Path) -> None:
    program = (
        "import sys; sys.modules['torch'] = None; sys.modules['timm'] = None; from pathlib import Path;"
        "from taco.verify import verify; print([g.passed for g in verify(Path(sys.argv[1]), 1)])"
    )
    done = subprocess.run([sys.executable, "-c", program, str(bundle)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[True, True, True]"


def test_the_command_says_what_fails(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from taco import cli

    for expected in (0, 4):
        monkeypatch.setattr(sys, "argv", ["taco", "verify", str(bundle)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == expected
        parity(bundle, INPUTS, -LOGITS)
    out = capsys.readouterr().out
    assert "passed      files" in out
    assert "FAILED" in out
    assert GateError.exit_code == 4


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@settings(max_examples=150)
@given(field=st.sampled_from([*Manifest.model_fields, "new"]), value=JSON)
def test_any_value_in_a_manifest_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, field: str, value: object
) -> None:
    folder = tmp_path_factory.getbasetemp() / "fuzzed"
    if not folder.exists():
        make_bundle(folder)
        (folder / "good.json").write_bytes((folder / MANIFEST).read_bytes())
    raw = json.loads((folder / "good.json").read_text())
    (folder / MANIFEST).write_text(json.dumps(raw | {field: value}))
    manifest = None
    with contextlib.suppress(BundleError):  # anything else is a failure of this test
        manifest = read_manifest(folder)
    assert manifest is None or all(".." not in Path(name).parts for name in manifest.files)


@settings(max_examples=150)
@given(at=st.integers(0, 10**6), byte=st.binary(min_size=0, max_size=3))
def test_any_damaged_manifest_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, at: int, byte: bytes
) -> None:
    folder = tmp_path_factory.getbasetemp() / "torn"
    if not folder.exists():
        make_bundle(folder)
        (folder / "good.json").write_bytes((folder / MANIFEST).read_bytes())
    good = (folder / "good.json").read_bytes()
    at %= len(good)
    (folder / MANIFEST).write_bytes(good[:at] + byte + good[at + 1 :])
    with contextlib.suppress(BundleError):  # anything else is a failure of this test
        read_manifest(folder)
