"""Every instruction-set tier that this CPU runs, chosen with TFCOMPRESS_ISA in a fresh process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tfcompress_ops import kernels

TESTS = Path(__file__).parent
TIERS = kernels.cpu_info()["tiers"]
EVERY_TIER = [variant["tier"] for variant in kernels.int8_variants()]
TIER_IN_FORCE = kernels.cpu_info()["tier"]

# Without TensorFlow, which the command line's help does without too.
KERNELS = "import tfcompress_command; from tfcompress_ops import _kernels as kernels"
INTEGER_SUMS = (
    f"import hashlib; import numpy as np; {KERNELS}"
    """
rng = np.random.default_rng(11)
digest = hashlib.sha256()
for _ in range(200):
    m, k, n = rng.integers(0, (70, 300, 200))
    weights = rng.integers(-127, 128, (k, n)).astype(np.int8)
    x = rng.standard_normal((m, k)).astype(np.float32) * 10.0 ** rng.integers(-20, 20)
    x = x.astype(np.float32)
    for x_scale in (None, 0.03):
        sums, scale = kernels.int8_sums(x, kernels.int8_pack(weights), n, x_scale=x_scale)
        digest.update(sums.tobytes() + scale.tobytes())
    for levels, values in (("binary", [-1, 1]), ("ternary", [-1, 0, 1])):
        packed = kernels.binary_pack(rng.choice(np.array(values, np.int8), (k, n)), levels)
        given = (x, packed, np.ones(n, np.float32), k)
        kinds = ("int8", "binary") if levels == "binary" else ("int8",)
        for kind in kinds:
            sums = kernels.binary_matmul(*given, levels=levels, activations=kind, sums=True)
            digest.update(sums.tobytes())
        if levels == "binary":
            threshold = rng.integers(-k - 1, k + 2, n).astype(np.int32)
            signs = kernels.binary_matmul(*given, activations="binary", threshold=threshold)
            digest.update(signs.tobytes())
print(kernels.cpu_info()["tier"], digest.hexdigest())
"""
)


@pytest.mark.slow
def test_integer_results_are_bit_identical_on_every_tier(run_python) -> None:
    lines = [run_python(INTEGER_SUMS, env={"TFCOMPRESS_ISA": t}).stdout.split() for t in TIERS]
    assert [tier for tier, _ in lines] == TIERS
    assert len({digest for _, digest in lines}) == 1


@pytest.mark.parametrize("tier", [t for t in TIERS if t != TIER_IN_FORCE])
@pytest.mark.slow
def test_format_and_op_tests_pass_on_other_tiers(tier: str, tmp_path: Path) -> None:
    """The suite of this run used the tier in force; this is the same suite on the others."""
    if "TFCOMPRESS_ISA" in os.environ:
        pytest.skip("TFCOMPRESS_ISA is set: this run is about one tier")
    files = ["test_kernels.py", "test_ops.py", "formats/test_int8.py"]
    files += ["test_binary_ops.py", "formats/test_binary.py"]
    files += ["test_sparse_ops.py", "formats/test_sparse.py"]
    result = subprocess.run(
        # Not "-m pytest" in the source tree: that would import the package from there.
        [
            *(sys.executable, "-c", "import sys, pytest; sys.exit(pytest.main(sys.argv[1:]))"),
            *("-q", "-p", "no:cacheprovider", "-c", str(TESTS.parent / "pyproject.toml")),
            *(str(TESTS / file) for file in files),
        ],
        env={**os.environ, "TFCOMPRESS_ISA": tier},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-4000:]


def test_unknown_tier_is_an_error(run_python) -> None:
    process = run_python(
        f"{KERNELS}; kernels.cpu_info()",
        env={"TFCOMPRESS_ISA": "avx3"},
        check=False,
    )
    assert process.returncode != 0
    assert f"TFCOMPRESS_ISA must be one of {', '.join(EVERY_TIER)}" in process.stderr
    assert "avx3" in process.stderr


def test_a_tier_above_the_machine_is_capped(run_python) -> None:
    code = f"{KERNELS}; print(kernels.cpu_info()['tier'])"
    assert run_python(code, env={"TFCOMPRESS_ISA": EVERY_TIER[-1]}).stdout.strip() == TIERS[-1]
