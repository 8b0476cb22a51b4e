"""Which module each ONNX node belongs to, whatever was made of the graph."""

from __future__ import annotations

import onnx
from int8_models import calibration, small_net

from taco.exporters.mixed import quantise
from taco.exporters.opened import Simulated
from taco.exporters.scheme import TENSORRT
from taco.steps.node_owners import owners


def test_weights_scopes_and_the_root_tell_the_module() -> None:
    net = small_net()
    nodes = {node.name: node for node in net.graph.node}
    key = "pkg.torch.onnx.name_scopes"
    nodes["n_relu"].metadata_props.add(key=key, value="['', 'blocks.0', 'blocks.0.act', 'relu']")
    nodes["n_add"].metadata_props.add(key=key, value="['', 'add']")
    nodes["n_clip"].metadata_props.add(key=key, value="not a list")
    found = owners(net, net)
    assert (found["n_stem"], found["n_head"], found["n_fc1"]) == ("stem", "head", "fc1")
    assert found["n_relu"] == "blocks.0.act"
    assert found["n_add"] == "(the model itself)"
    assert not {"n_clip", "n_mean"} & set(found)


def test_q_and_dq_belong_to_what_reads_them() -> None:
    net = small_net()
    made, _ = quantise(net, TENSORRT, calibration(net), Simulated())
    found = owners(net, made)
    stem = next(node for node in made.graph.node if node.name == "n_stem")
    producers: dict[str, onnx.NodeProto] = {name: node for node in made.graph.node for name in node.output}
    around = [producers[name] for name in stem.input[:2]]
    around += [producers[node.input[0]] for node in around if node.input[0] in producers]
    assert {node.op_type for node in around} == {"QuantizeLinear", "DequantizeLinear"}
    assert {found[node.name] for node in around} == {"stem"}
