"""tfcompress_ops: compressed Keras models that really run faster inside TensorFlow.

A *format* says how one weight matrix is stored and which op multiplies by it, a *layer* says where
a matrix sits in a model:

    import tfcompress_ops as tfc

    small = tfc.compress(model, tfc.Int8())
    print(tfc.report(model, small))
    small.save("small.keras")
"""

from tfcompress_ops import _loader
from tfcompress_ops._version import __version__

_loader.load()  # one ImportError that says what to do, before anything else can fail

from tfcompress_ops import formats, kernels, layers, ops  # noqa: E402
from tfcompress_ops.compression import compress, decompress  # noqa: E402
from tfcompress_ops.formats import Format, Int8  # noqa: E402
from tfcompress_ops.reports import Report, report  # noqa: E402

__all__ = [
    "Format",
    "Int8",
    "Report",
    "__version__",
    "compress",
    "decompress",
    "formats",
    "kernels",
    "layers",
    "ops",
    "report",
]
