"""Looks into wheel files: tag, size, what they hold. `python tests/smoke/check_file.py dist/*.whl`.

Only Python's standard library, so that it runs anywhere.
"""

import re
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

NAME = re.compile(
    r"tfcompress_ops-(?P<public>(?P<tensorflow>\d+\.\d+)\.\d+)(?P<local>\+cu\d+)?"
    r"-cp3\d+-cp3\d+-manylinux_2_(?P<glibc>\d+)_\w+\.whl"
)
# What pip downloads; seven GPU architectures in a wheel with a local version.
MOST_BYTES = {False: 15_000_000, True: 60_000_000}
# Of manylinux_2_28 wheels, what RHEL 8 and later, Debian 10 and later and Ubuntu 20.04 have.
NEEDED = (
    r"tfcompress_ops/_kernels\.cpython-.*\.so",
    r"tfcompress_ops/libtfcompress_ops\.so",
    r"tfcompress_ops/_build_config\.py",
    r"tfcompress_ops/py\.typed",
    r"tfcompress_ops/_kernels\.pyi",
    r"tfcompress_ops/demo/page/report\.html\.j2",
    r"tfcompress_command/__init__\.py",
    r".*\.dist-info/licenses/LICENSE",
    r".*\.dist-info/entry_points\.txt",
)
UNWANTED = re.compile(r"(^tests/|^csrc/|\.cc$|\.cu$|\.a$|__pycache__|libtensorflow)")


def check(path: Path) -> str:
    """Returns a line about a good wheel, and raises AssertionError on any other."""
    match = NAME.fullmatch(path.name)
    assert match, f"{path.name} is no repaired wheel of this package"
    size = path.stat().st_size
    most = MOST_BYTES[match["local"] is not None]
    assert size <= most, f"{path.name} has {size / 1e6:.1f} MB, of {most / 1e6:.0f}"
    with zipfile.ZipFile(path) as wheel:
        names = wheel.namelist()
        for pattern in NEEDED:
            assert any(re.fullmatch(pattern, name) for name in names), f"no {pattern}: {names}"
        unwanted = [name for name in names if UNWANTED.search(name)]
        assert unwanted == [], unwanted
        metadata_name = next(name for name in names if name.endswith(".dist-info/METADATA"))
        metadata = Parser().parsestr(wheel.read(metadata_name).decode())
        config: dict[str, object] = {}
        exec(wheel.read("tfcompress_ops/_build_config.py"), config)
    version = f"{match['public']}{match['local'] or ''}"
    assert metadata["Version"] == config["VERSION"] == version, (metadata["Version"], config)
    built_for = ".".join(str(config["TENSORFLOW_VERSION"]).split(".")[:2])
    assert built_for == match["tensorflow"], (built_for, version)
    assert (config["CUDA_VERSION"] is not None) == (match["local"] is not None), config
    wanted = [
        requirement
        for requirement in metadata.get_all("Requires-Dist")
        if requirement.startswith("tensorflow") and "[test]" not in requirement
    ]
    assert wanted, "no extra brings TensorFlow"
    for requirement in wanted:
        assert f">={built_for}" in requirement, requirement
    return f"{path.name}: {size / 1e6:.2f} MB, glibc 2.{match['glibc']} or later"


def main() -> None:
    """Checks every file of the command line."""
    if len(sys.argv) < 2:
        sys.exit("usage: check_file.py WHEEL...")
    for argument in sys.argv[1:]:
        print(check(Path(argument)))


if __name__ == "__main__":
    main()
