"""The console script `tfcompress`: starts the command line of tfcompress_ops.

It is a package of its own since it must run before `tfcompress_ops` is imported; see there.
"""

import os
import sys


def main() -> None:
    """Runs the command line; an installation that cannot load TensorFlow gives one message."""
    # TensorFlow reads it once, as it is loaded: 2 leaves warnings out and errors in.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    from tfcompress_ops import cli

    try:
        cli.main()
    except ImportError as error:
        if os.environ.get("TFCOMPRESS_TRACEBACK") == "1":
            raise
        sys.exit(f"Error: {error}")
