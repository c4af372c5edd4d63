"""The entry point of `python -m ebmzoo`, which imports from where the script `ebmzoo` does."""

import os
import sys

if not sys.flags.safe_path and sys.path[:1] == [os.getcwd()]:
    del sys.path[0]  # the working folder, which may be a stranger's; PYTHONPATH=. adds it

from ebmzoo.commands.cli import main

main()
