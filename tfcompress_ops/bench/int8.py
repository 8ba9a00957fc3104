"""The int8 suite: what `tfcompress bench int8` compares."""

from tfcompress_ops.bench.format_case import FormatCase
from tfcompress_ops.bench.suites import Suite, register_suite
from tfcompress_ops.formats import Int8

_OP = "Tfcompress>Int8MatMul"

INT8 = register_suite(
    Suite(
        name="int8",
        summary="int8 weights against float32 and other engines' int8.",
        option="--activations",
        variants={
            "dynamic": FormatCase(Int8("dynamic"), _OP, "int8", 0.03),
            "static": FormatCase(Int8("static"), _OP, "int8", 0.03),
            "float": FormatCase(Int8("float"), _OP, "float32", 0.02),
        },
    )
)
