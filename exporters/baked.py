"""Bake preprocessing and softmax into a model: pixels in, probabilities out, so that a device has only to resize.

uint8 (1, H, W, 3) as every picture library gives it; the same normalisation as `taco.device.images.to_tensor`.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx.numpy_helper
from onnx import TensorProto, helper

from taco.device.images import Preprocessing
from taco.errors import GateError

INPUT, OUTPUT = "pixels", "probabilities"
_PREFIX = "taco/baked/"


def bake(proto: onnx.ModelProto, preprocessing: Preprocessing) -> onnx.ModelProto:
    """Return a model that takes pixels and gives probabilities.

    Args:
        proto: Takes (1, 3, H, W) float32 and gives (1, classes) float32 logits; not changed.
        preprocessing: Gives mean and standard deviation, in units of the pixel range 0-1.

    Raises:
        GateError: The result fails onnx's full check.
    """
    baked = onnx.ModelProto()
    baked.CopyFrom(proto)
    graph = baked.graph
    inside, logits = graph.input[0].name, graph.output[0].name
    classes = graph.output[0].type.tensor_type.shape.dim[1].dim_value
    _, height, width = preprocessing.input_size
    std = np.asarray(preprocessing.std, np.float64).reshape(1, 3, 1, 1)
    mean = np.asarray(preprocessing.mean, np.float64).reshape(1, 3, 1, 1)
    # (x / 255 - mean) / std, as one product and one sum
    constants = {"scale": 1 / (255 * std), "shift": -mean / std}
    names = {key: _PREFIX + key for key in ("float", "planes", "scaled", *constants)}
    before = [
        helper.make_node("Cast", [INPUT], [names["float"]], names["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", [names["float"]], [names["planes"]], names["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Mul", [names["planes"], names["scale"]], [names["scaled"]], names["scaled"]),
        helper.make_node("Add", [names["scaled"], names["shift"]], [inside], _PREFIX + "normalised"),
    ]
    after = helper.make_node("Softmax", [logits], [OUTPUT], _PREFIX + "softmax", axis=1)
    nodes = [*before, *(onnx.NodeProto.FromString(node.SerializeToString()) for node in graph.node), after]
    del graph.node[:], graph.input[:], graph.output[:]
    graph.node.extend(nodes)
    graph.input.append(helper.make_tensor_value_info(INPUT, TensorProto.UINT8, [1, height, width, 3]))
    graph.output.append(helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, [1, classes]))
    for key, value in constants.items():
        graph.initializer.append(onnx.numpy_helper.from_array(value.astype(np.float32), names[key]))
    try:
        onnx.checker.check_model(baked, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise GateError(f"the model with baked preprocessing is not valid ONNX: {error}") from error
    return baked
