"""The suite of all formats: what `tfcompress bench formats` compares, in one run."""

from tfcompress_ops.bench.binary import BINARY
from tfcompress_ops.bench.cases import Case
from tfcompress_ops.bench.int8 import INT8
from tfcompress_ops.bench.peers import PEERS
from tfcompress_ops.bench.sparse import SPARSE
from tfcompress_ops.bench.suites import Suite, register_suite


def _variants() -> dict[str, Case]:
    """The variants of all formats, by format and variant."""
    return {
        f"{suite.name}-{name}": case
        for suite in (INT8, SPARSE, BINARY)
        for name, case in suite.variants.items()
    }


def _peers() -> dict[str, Case]:
    """Other engines, each once."""
    ours = {case.name for case in _variants().values()}
    peers = {case.name: case for suite in (INT8, SPARSE, BINARY) for case in suite.peers}
    return {name: case for name, case in peers.items() if name not in ours}


ALL_FORMATS = register_suite(
    Suite(
        name="formats",
        summary="the main variants of all formats against each other and other engines.",
        option="--variants",
        variants=_variants(),
        peers=tuple(_peers().values()),
        reference=PEERS[1].name,
        defaults=(
            "int8-dynamic",
            "sparse-float32-90",
            "sparse-int8-8:64",
            "binary-ternary-a8",
            "binary-w1a8",
            "binary-w1a1",
        ),
        families=SPARSE.families,
    )
)
