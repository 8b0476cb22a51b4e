"""Many modules exported at once: most of an export's time goes to what torch does once a call.

A profile exports dozens of small parts of a model, which take a second each by themselves. Here they go through torch
side by side, each with an input and an output of its own, and the graph is taken apart again: EfficientNet-Lite0's 22
in 8 instead of 21 s. Whole models gain nothing, for what torch does with their many nodes is most of their time.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

import onnx
import torch
from torch import nn

from taco.errors import GateError
from taco.exporters.graph import OPSET, check_graph, export_proto, plain, program_proto, tidied
from taco.exporters.protocol import Compressed

log = logging.getLogger(__name__)

#: Modules that go through torch at once.
MOST = 24
#: And bytes of their parameters: a graph has at most 2 GiB.
_MOST_BYTES = 2**29


def export_protos(models: Sequence[Compressed], opset: int = OPSET) -> list[onnx.ModelProto]:
    """Export modules for timing: as `export_proto` each, but for names, and torch's notes of where a node comes from.

    Args:
        models: Without a file that was exported before.
        opset: Of all.

    Raises:
        GateError: torch cannot export one of them, or its graph fails onnx's full check, its shapes or its opset.
    """
    return [proto for part in _parts(models) for proto in _exported(part, opset)]


def _parts(models: Sequence[Compressed]) -> Iterator[list[Compressed]]:
    """Yield what goes through torch at once, in order."""
    part, held = list[Compressed](), 0
    for model in models:
        size = sum(p.numel() * p.element_size() for p in model.module.parameters())
        if part and (len(part) == MOST or held + size > _MOST_BYTES):
            yield part
            part, held = [], 0
        part.append(model)
        held += size
    if part:
        yield part


def _exported(models: Sequence[Compressed], opset: int) -> list[onnx.ModelProto]:
    if len(models) > 1:
        try:
            names = [[f"{name}_{i}" for i in range(len(models))] for name in ("input", "logits")]
            examples = tuple(torch.zeros(1, *model.input_size) for model in models)
            whole = tidied(program_proto(_Together([m.module for m in models]).eval(), (examples,), names, opset))
            found = [_taken(whole, *ends) for ends in zip(*names, strict=True)]
            for proto, model in zip(found, models, strict=True):
                check_graph(proto, model, opset)
        except GateError as error:  # by itself each says what is wrong with it, if anything is
            log.debug("%d modules cannot be exported at once: %s", len(models), error.what)
        else:
            return found
    return [export_proto(model, opset) for model in models]


class _Together(nn.Module):
    """Modules side by side; each a copy, for a norm is not folded into a weight that two of them share."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        super().__init__()
        self.each = nn.ModuleList([plain(module) for module in modules])

    def forward(self, inputs: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """Map one input for each to one output of each."""
        return tuple(module(given) for module, given in zip(self.each, inputs, strict=True))


def _taken(whole: onnx.ModelProto, given: str, made: str) -> onnx.ModelProto:
    """Return the graph from one input to one output; everything in it is named by its place, notes of nodes go.

    Raises:
        GateError: It cannot be told apart from its neighbours.
    """
    graph = whole.graph
    nodes = _before(graph, made)
    weights = {tensor.name: tensor for tensor in graph.initializer}
    read = list(dict.fromkeys(name for node in nodes for name in node.input if name))
    inside = {name for node in nodes for name in node.output}
    if {name for name in read if name not in weights and name not in inside} != {given} or made not in inside:
        raise GateError(f"{made} does not depend on {given} alone")
    names = {given: "input", made: "logits"}
    names |= {name: f"w{number}" for number, name in enumerate(name for name in read if name in weights)}
    values = [name for node in nodes for name in node.output if name and name not in names]
    names |= {name: f"v{number}" for number, name in enumerate(dict.fromkeys(values))}

    found = onnx.ModelProto(
        ir_version=whole.ir_version, producer_name=whole.producer_name, producer_version=whole.producer_version,
        opset_import=whole.opset_import, functions=whole.functions, metadata_props=whole.metadata_props,
    )  # fmt: skip
    found.graph.name = graph.name
    for number, node in enumerate(nodes):
        copied = found.graph.node.add()
        copied.CopyFrom(node)
        copied.name = f"{node.op_type}_{number}"
        copied.input[:] = [names.get(name, name) for name in node.input]
        copied.output[:] = [names.get(name, name) for name in node.output]
        del copied.metadata_props[:]
    for name in read:
        if name in weights:
            _renamed(found.graph.initializer.add(), weights[name], names)
    for values_in, values_out in (
        (found.graph.input, graph.input), (found.graph.output, graph.output), (found.graph.value_info, graph.value_info)
    ):  # fmt: skip
        for value in values_out:
            if value.name in names:
                _renamed(values_in.add(), value, names)
    return found


def _renamed(
    copied: onnx.TensorProto | onnx.ValueInfoProto,
    original: onnx.TensorProto | onnx.ValueInfoProto,
    names: dict[str, str],
) -> None:
    copied.CopyFrom(original)
    copied.name = names[original.name]
    del copied.metadata_props[:]


def _before(graph: onnx.GraphProto, made: str) -> list[onnx.NodeProto]:
    """Return the nodes that an output depends on, in the graph's order."""
    producer = {name: number for number, node in enumerate(graph.node) for name in node.output if name}
    wanted, waiting = set[int](), [made]
    while waiting:
        number = producer.get(waiting.pop())
        if number is None or number in wanted:
            continue
        node = graph.node[number]
        if any(a.graphs or a.HasField("g") for a in node.attribute):
            raise GateError(f"{node.op_type} holds graphs of its own")
        wanted.add(number)
        waiting.extend(node.input)
    return [graph.node[number] for number in sorted(wanted)]
