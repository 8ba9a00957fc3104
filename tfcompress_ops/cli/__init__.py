"""The command line: `tfcompress demo | info | compress | inspect | bench`."""

import os


def main() -> None:
    """Runs the command line; the entry point of `tfcompress`."""
    # TensorFlow reads it once, as it is loaded: 2 leaves warnings out and errors in.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

    from tfcompress_ops.cli.app import app

    app(prog_name="tfcompress")
