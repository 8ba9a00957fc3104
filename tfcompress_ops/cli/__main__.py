"""`python -m tfcompress_ops.cli` is `tfcompress`."""

from tfcompress_ops.cli import main

main()
