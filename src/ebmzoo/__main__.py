"""The entry point of `python -m ebmzoo`."""

from ebmzoo.cli import main

main()
