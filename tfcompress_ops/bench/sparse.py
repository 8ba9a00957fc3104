"""The sparse suite: what `tfcompress bench sparse` compares."""

from tfcompress_ops.bench.cases import Arithmetic, Case
from tfcompress_ops.bench.format_case import FormatCase
from tfcompress_ops.bench.int8 import INT8
from tfcompress_ops.bench.peers import LiteRT
from tfcompress_ops.bench.sparse_peers import SciPy, TensorFlowCsr, TensorFlowSparse
from tfcompress_ops.bench.suites import Suite, register_suite
from tfcompress_ops.formats import Sparse
from tfcompress_ops.formats.sparse import Values

_OP = "Tfcompress>SparseMatMul"
# The peak of bfloat16 is not measured: float32's stands in.
_KINDS: dict[Values, tuple[Arithmetic, float]] = {
    "float32": ("float32", 1e-5),
    "bfloat16": ("float32", 0.005),
    "int8": ("int8", 0.03),
}
_PEER_SPARSITY = 0.9
_DENSE_INT8 = INT8.variants["dynamic"]


def _case(values: Values, sparsity: float | None = None, pattern: str | None = None) -> Case:
    """The case of `Sparse` with these options."""
    return FormatCase(
        Sparse(sparsity=sparsity, pattern=pattern, values=values), _OP, *_KINDS[values]
    )


SPARSE = register_suite(
    Suite(
        name="sparse",
        summary="pruned weights against dense ones and other engines' sparse products.",
        option="--weights",
        variants={
            "float32-80": _case("float32", 0.8),
            "float32-90": _case("float32", 0.9),
            "float32-95": _case("float32", 0.95),
            "float32-4:64": _case("float32", pattern="4:64"),
            "float32-balanced-90": _case("float32", 0.9, "balanced"),
            "bfloat16-90": _case("bfloat16", 0.9),
            "int8-90": _case("int8", 0.9),
            "int8-16:64": _case("int8", pattern="16:64"),
            "int8-8:64": _case("int8", pattern="8:64"),
            "int8-4:64": _case("int8", pattern="4:64"),
            "int8-balanced-90": _case("int8", 0.9, "balanced"),
        },
        peers=(
            _DENSE_INT8,
            LiteRT(),
            TensorFlowSparse(_PEER_SPARSITY),
            TensorFlowCsr(_PEER_SPARSITY),
            SciPy(_PEER_SPARSITY),
        ),
        reference=_DENSE_INT8.name,
        defaults=("float32-90", "bfloat16-90", "int8-90", "int8-8:64", "int8-balanced-90"),
        families={
            "float32": lambda sparsity: _case("float32", sparsity),
            "float32-balanced": lambda sparsity: _case("float32", sparsity, "balanced"),
            "int8": lambda sparsity: _case("int8", sparsity),
            "int8-balanced": lambda sparsity: _case("int8", sparsity, "balanced"),
        },
    )
)
