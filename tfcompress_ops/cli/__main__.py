"""`python -m tfcompress_ops.cli` is `tfcompress`."""

from tfcompress_command import main

main()
