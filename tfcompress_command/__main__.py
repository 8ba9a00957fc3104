"""`python -m tfcompress_command` is `tfcompress`."""

from tfcompress_command import main

main()
