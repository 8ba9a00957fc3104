"""Larq Compute Engine, the other engine that has binary layers, as a peer of the binary suite."""

import functools
import importlib.util
import pathlib
from typing import Any, ClassVar

import numpy as np

from tfcompress_ops.bench.cases import Case
from tfcompress_ops.bench.chains import Array, Chain, LayerWeights, Problem

_WRAPPER = "tflite/python/interpreter_wrapper_lite.so"


class LarqComputeEngine(Case):
    """Larq Compute Engine's interpreter: signs of weights and inputs, as a 1 x 1 convolution.

    It has assembly for Arm alone; on x86 it counts bits in portable C++. Of its three convolutions
    the one that is the faster at the batch at hand runs. A call copies inputs and outputs, which
    its Python interface leaves no way around; that is part of the time.

    The interpreter is loaded by itself: its package imports a converter that needs parts of
    TensorFlow which newer versions lack. It was built for NumPy 1 and misreads arrays of NumPy 2.

    Args:
        signs: The case of the same arithmetic: whose weights and reference these are.
    """

    name = "larq binary"
    arithmetic = "binary"
    tolerance = 1e-5
    modules: ClassVar[tuple[str, ...]] = ("larq_compute_engine", "ai_edge_litert")
    install: ClassVar[str] = "pip install larq-compute-engine ai-edge-litert 'numpy<2'"

    def __init__(self, signs: Case) -> None:
        self._signs = signs

    def missing(self) -> str | None:
        """The command that installs it, and the NumPy that it works with; see `Case`."""
        return super().missing() if np.lib.NumpyVersion(np.__version__) < "2.0.0" else self.install

    def weights(self, kernel: Array) -> Array:
        """Signs and their scales; see `Case`."""
        return self._signs.weights(kernel)

    def reference(self, problem: Problem, index: int) -> Array:
        """Output of a layer with signs of its inputs; see `Case`."""
        return self._signs.reference(problem, index)

    def weight_bytes(self, in_features: int, out_features: int) -> int:
        """One bit a weight, in words of 32, and the scales."""
        return 4 * (-(-in_features // 32) + 1) * out_features

    def build(self, problem: Problem) -> Chain:
        """Writes and loads one model of all layers; see `Case`."""
        call = self._call(problem)
        tiny = LayerWeights(np.ones((32, 1), np.float32), np.zeros(1, np.float32))
        empty = self._call(Problem((tiny,), (np.ones((1, 32), np.float32),), problem.threads))

        def output() -> Array:
            last: Array = call()[-1]
            return last.reshape(len(last), -1)

        return Chain(
            call=call,
            layers=problem.distinct,
            distinct=problem.distinct,
            empty=empty,
            output=output,
        )

    def _call(self, problem: Problem) -> Any:
        from tfcompress_ops.bench.litert_model import binary_model

        layers = []
        for layer in problem.weights:
            weights = self.weights(layer.kernel)
            layers.append((weights < 0, np.abs(weights[0]), layer.bias))
        batch = len(problem.inputs[0])
        # The portable reference beats the indirect kernel where a row is all there is.
        interpreter = _wrapper().LiteInterpreter(
            binary_model(layers, batch), problem.threads, batch == 1, batch > 1, False
        )
        inputs = [np.ascontiguousarray(x[:, None, None, :]) for x in problem.inputs]
        return functools.partial(interpreter.predict, inputs)


@functools.cache
def _wrapper() -> Any:
    """The module that holds the interpreter, without the package around it."""
    package = importlib.util.find_spec("larq_compute_engine")
    assert package is not None  # `missing` asked.
    assert package.submodule_search_locations
    path = pathlib.Path(package.submodule_search_locations[0]) / _WRAPPER
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
