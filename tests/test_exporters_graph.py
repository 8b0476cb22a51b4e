"""The one ONNX file: nothing of this machine in it, the same bytes every time, and gates that catch a wrong graph."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import timm
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from taco.errors import GateError, TacoError
from taco.exporters import graph
from taco.exporters.graph import OPSET, flush_denormals, strip_paths, write_onnx
from taco.exporters.protocol import Artifact, Compressed
from taco.model import state_sha256

SIZE = (3, 32, 32)


def net() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)]
    return nn.Sequential(*layers).eval()


@dataclasses.dataclass(frozen=True, slots=True)
class Exported:
    """A model, its file, and what the exporter said of it."""

    module: nn.Module
    artifact: Artifact
    proto: onnx.ModelProto


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    module = net()
    artifact = write_onnx(Compressed(module, SIZE), tmp_path_factory.mktemp("out") / "model.onnx")
    return Exported(module, artifact, onnx.load(artifact.path))


def copy_of(proto: onnx.ModelProto) -> onnx.ModelProto:
    copied = onnx.ModelProto()
    copied.CopyFrom(proto)
    return copied


def raw_export(module: nn.Module) -> onnx.ModelProto:
    return graph.program_proto(graph.plain(module), (torch.zeros(1, *SIZE),), (["input"], ["logits"]), OPSET)


def gate(proto: onnx.ModelProto, module: nn.Module, opset: int = OPSET) -> None:
    graph.check_graph(proto, Compressed(module, SIZE), opset)


def test_the_artifact_describes_the_bytes(exported: Exported) -> None:
    data = exported.artifact.path.read_bytes()
    assert exported.artifact.sha256 == hashlib.sha256(data).hexdigest()
    assert exported.artifact.size_bytes == len(data)
    assert exported.artifact.nodes == len(exported.proto.graph.node)
    assert exported.artifact.opset == OPSET == next(o.version for o in exported.proto.opset_import if o.domain == "")
    assert exported.artifact.precision == "fp32"


def test_the_input_is_one_picture_and_the_output_its_logits(exported: Exported) -> None:
    shapes = {
        v.name: [d.dim_value for d in v.type.tensor_type.shape.dim]
        for v in (*exported.proto.graph.input, *exported.proto.graph.output)
    }
    assert shapes == {"input": [1, 3, 32, 32], "logits": [1, 5]}


def test_it_computes_what_torch_computes(exported: Exported) -> None:
    x = torch.randn(1, *SIZE)
    session = onnxruntime.InferenceSession(exported.artifact.path, providers=["CPUExecutionProvider"])
    got = session.run(None, {"input": x.numpy()})[0]
    np.testing.assert_allclose(got, exported.module(x).detach().numpy(), rtol=1e-4, atol=1e-5)


def test_no_local_path_is_in_the_bytes(exported: Exported) -> None:
    data = exported.artifact.path.read_bytes()
    private = (str(Path.home()), str(Path(__file__).parent), str(Path(torch.__file__).parents[1]), ".py", "stack_trace")
    assert [word for word in private if word != "/" and word.encode() in data] == []


def test_the_raw_export_would_have_named_local_files(exported: Exported) -> None:
    raw = raw_export(exported.module).SerializeToString()
    assert b".py" in raw  # else stripping, and the test above, would be idle


def test_two_exports_of_one_model_have_the_same_bytes(exported: Exported, tmp_path: Path) -> None:
    again = write_onnx(Compressed(net(), SIZE), tmp_path / "elsewhere.onnx")
    assert again.sha256 == exported.artifact.sha256


def test_the_model_itself_is_not_touched(tmp_path: Path) -> None:
    module = net().train().to(memory_format=torch.channels_last)
    before = state_sha256(module)
    with torch.no_grad():
        module[0].weight[0, 0, 0, 0] = 1e-42
        denormal = state_sha256(module)
    write_onnx(Compressed(module, SIZE), tmp_path / "m.onnx")
    assert state_sha256(module) == denormal != before
    assert module.training


def test_float64_and_training_models_are_exported_as_float32_in_eval_mode(tmp_path: Path) -> None:
    module = net().double().train()
    artifact = write_onnx(Compressed(module, SIZE), tmp_path / "m.onnx")
    x = torch.randn(1, *SIZE)
    got = onnxruntime.InferenceSession(artifact.path).run(None, {"input": x.numpy()})[0]
    np.testing.assert_allclose(got, module.eval()(x.double()).detach().numpy(), rtol=1e-4, atol=1e-5)


def test_logging_and_output_stay_quiet_and_levels_come_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logging.getLogger("torch.onnx").setLevel(logging.INFO)
    try:
        write_onnx(Compressed(net(), SIZE), tmp_path / "m.onnx")
        assert logging.getLogger("torch.onnx").level == logging.INFO
    finally:
        logging.getLogger("torch.onnx").setLevel(logging.NOTSET)
    assert capsys.readouterr().out == ""


def denormals(proto: onnx.ModelProto) -> int:
    arrays = [numpy_helper.to_array(i) for i in proto.graph.initializer if i.data_type == TensorProto.FLOAT]
    return sum(int(((a != 0) & (np.abs(a) < np.finfo(np.float32).tiny)).sum()) for a in arrays)


def test_denormal_weights_are_flushed_even_where_the_exporter_makes_them(tmp_path: Path) -> None:
    module = net()
    with torch.no_grad():
        module[0].weight[0] = 1e-30
        module[1].weight.fill_(1e-12)  # folded into the convolution: 1e-42
        module[5].weight[0] = 1e-41
    raw = raw_export(module)
    assert denormals(raw) > 0
    artifact = write_onnx(Compressed(module, SIZE), tmp_path / "m.onnx")
    assert denormals(onnx.load(artifact.path)) == 0


def test_flushing_leaves_everything_else() -> None:
    values = np.array([1e-41, -1e-41, 1.5, 0.0, -np.float32(np.finfo(np.float32).tiny)], np.float32)
    proto = helper.make_model(
        helper.make_graph(
            [], "g", [], [], [numpy_helper.from_array(values, "w"), numpy_helper.from_array(np.array([3]), "i")]
        )
    )
    flush_denormals(proto)
    flushed, integers = (numpy_helper.to_array(i) for i in proto.graph.initializer)
    np.testing.assert_array_equal(flushed, [0, 0, 1.5, 0, values[4]])
    assert [i.name for i in proto.graph.initializer] == ["w", "i"]
    assert integers.tolist() == [3]


def test_paths_are_stripped_from_branches_and_functions_too(exported: Exported) -> None:
    inner = helper.make_node("Identity", ["x"], ["y"])
    inner.metadata_props.add(key="pkg.torch.onnx.stack_trace", value="/home/me/model.py:3")
    inner.doc_string = "/home/me"
    kind = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    body = helper.make_graph([inner], "body", [], [kind])
    body.doc_string = "/home/me"
    branch = helper.make_node("If", ["c"], ["y"], then_branch=body, else_branch=body)
    function = helper.make_function("d", "f", ["x"], ["y"], [inner], [helper.make_opsetid("", OPSET)])
    proto = helper.make_model(helper.make_graph([branch], "g", [], []), functions=[function])
    proto.graph.node[0].metadata_props.add(key="namespace", value="block.mlp")
    proto.metadata_props.add(key="file", value="/home/me/model.py")
    before = proto.SerializeToString()
    data = strip_paths(proto).SerializeToString()
    assert b"/home/me" not in data
    assert b"block.mlp" in data
    assert proto.SerializeToString() == before


def test_a_wrong_shape_is_caught(exported: Exported) -> None:
    with pytest.raises(GateError, match=r"input is \[1, 3, 32, 32\], not \[1, 3, 64, 64\]"):
        graph.check_graph(exported.proto, Compressed(exported.module, (3, 64, 64)), OPSET)
    free = copy_of(exported.proto)
    free.graph.input[0].type.tensor_type.shape.dim[0].Clear()
    free.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    with pytest.raises(GateError, match=r"input is \[0, 3, 32, 32\]"):
        gate(free, exported.module)


def test_another_opset_than_asked_is_caught(exported: Exported) -> None:
    with pytest.raises(GateError, match="opset 18 was asked, the file says 20"):
        gate(exported.proto, exported.module, 18)


def test_an_invalid_graph_is_caught(exported: Exported) -> None:
    broken = copy_of(exported.proto)
    broken.graph.node[0].op_type = "NoSuchOperator"
    with pytest.raises(GateError, match="not valid ONNX"):
        gate(broken, exported.module)


def test_a_second_output_is_caught(exported: Exported) -> None:
    double = copy_of(exported.proto)
    double.graph.output.append(helper.make_tensor_value_info(double.graph.node[0].output[0], TensorProto.FLOAT, "abcd"))
    with pytest.raises(GateError, match="1 inputs and 2 outputs"):
        gate(double, exported.module)


def test_every_layer_norm_of_a_vit_stays_one_node(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=1, num_classes=3).eval()
    artifact = write_onnx(Compressed(module, SIZE), tmp_path / "vit.onnx")
    proto = onnx.load(artifact.path)
    norms = sum(isinstance(m, nn.LayerNorm) for m in module.modules())
    assert norms == sum(node.op_type == "LayerNormalization" for node in proto.graph.node) == 3
    for node in proto.graph.node:
        if node.op_type == "LayerNormalization":
            node.op_type = "Identity"
            del node.input[1:], node.attribute[:]
            break
    with pytest.raises(GateError, match=r"3 LayerNorm modules became 2 .* FP16 would go wrong"):
        gate(proto, module)


class DataDependent(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3)) if float(x.sum()) > 0 else x.amax((2, 3))


def test_a_model_that_torch_cannot_export_is_named(tmp_path: Path) -> None:
    with pytest.raises(GateError, match="torch cannot export DataDependent to ONNX: "):
        write_onnx(Compressed(DataDependent(), SIZE), tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_gate_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "m.onnx"
    out.write_bytes(b"old")

    def refuse(*_: object) -> None:
        raise GateError("no")

    monkeypatch.setattr(graph, "check_graph", refuse)
    with pytest.raises(GateError, match="no"):
        write_onnx(Compressed(net(), SIZE), out)
    assert out.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [out]


def test_a_full_disk_keeps_the_old_file_and_is_no_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "m.onnx"
    out.write_bytes(b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("taco.files.os.fsync", full)
    with pytest.raises(TacoError, match="No space left on device"):
        write_onnx(Compressed(net(), SIZE), out)
    assert out.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [out]


def test_a_missing_folder_is_no_traceback(tmp_path: Path) -> None:
    with pytest.raises(TacoError, match="cannot be written"):
        write_onnx(Compressed(net(), SIZE), tmp_path / "nowhere" / "m.onnx")
