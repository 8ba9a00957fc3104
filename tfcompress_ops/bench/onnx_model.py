"""Writes ONNX models of dense layers with dynamically quantised activations.

The graph is the one that `onnxruntime.quantization.quantize_dynamic` writes, which the runtime
fuses into one DynamicQuantizeMatMul a layer.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

_OPSET = 17
_IR_VERSION = 8


def dynamic_model(
    layers: Sequence[tuple[npt.NDArray[np.int8], npt.NDArray[np.float32], npt.NDArray[np.float32]]],
    batch: int,
) -> onnx.ModelProto:
    """A model with one input `x{i}` and one output `y{i}` a layer, independent of each other.

    Args:
        layers: `(weights int8 [K, N], scale [N], bias [N])` of each layer.
        batch: Rows of every input.

    Returns:
        The model.
    """
    nodes, constants, inputs, outputs = [], [], [], []
    for i, (weights, scale, bias) in enumerate(layers):
        k, n = weights.shape
        inputs.append(helper.make_tensor_value_info(f"x{i}", TensorProto.FLOAT, [batch, k]))
        outputs.append(helper.make_tensor_value_info(f"y{i}", TensorProto.FLOAT, [batch, n]))
        constants += [
            numpy_helper.from_array(weights, f"weights{i}"),
            numpy_helper.from_array(np.zeros(n, np.int8), f"weights_zero{i}"),
            numpy_helper.from_array(scale, f"weights_scale{i}"),
            numpy_helper.from_array(bias, f"bias{i}"),
        ]
        x_quantized = [f"x_int{i}", f"x_scale{i}", f"x_zero{i}"]
        products = [f"x_int{i}", f"weights{i}", f"x_zero{i}", f"weights_zero{i}"]
        nodes += [
            helper.make_node("DynamicQuantizeLinear", [f"x{i}"], x_quantized),
            helper.make_node("MatMulInteger", products, [f"sums{i}"]),
            helper.make_node("Cast", [f"sums{i}"], [f"float_sums{i}"], to=TensorProto.FLOAT),
            helper.make_node("Mul", [f"x_scale{i}", f"weights_scale{i}"], [f"scale{i}"]),
            helper.make_node("Mul", [f"float_sums{i}", f"scale{i}"], [f"product{i}"]),
            helper.make_node("Add", [f"product{i}", f"bias{i}"], [f"y{i}"]),
        ]
    graph = helper.make_graph(nodes, "dense_layers", inputs, outputs, constants)
    opset = [helper.make_opsetid("", _OPSET)]
    return helper.make_model(graph, opset_imports=opset, ir_version=_IR_VERSION)
