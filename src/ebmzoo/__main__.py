"""`python -m ebmzoo`."""

from ebmzoo.cli import main

main()
