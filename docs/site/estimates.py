"""Writes the hours and the memory beside the configs of the papers' tables in docs/howto.md, by `ebmzoo estimate`.

`python docs/site/estimates.py` computes all of them, and with names of configs those alone.
"""

import re
import sys
from pathlib import Path

from ebmzoo.commands.estimate.command import of_config
from ebmzoo.commands.estimate.page import FRACTION, row

PAGE = Path(__file__).resolve().parent.parent / "howto.md"
TABLE = "| paper |"
"""The beginning of the table that names them."""
CONFIG = re.compile(r"`(\w+_\w+)`(?: \([^)]*\))?(?=,| \|)")


def stated(config: str) -> str:
    """A config with the hours on the first device of the table of estimates, and the peak memory in GiB."""
    peak, hours = (cell.strip() for cell in row(config, of_config(config), FRACTION).split("|")[7:9])
    return f"`{config}` ({hours.split(',')[0]}, {peak})"


def main(names: list[str]) -> None:
    """Compute the estimates of `names`, or all, and write the page after each."""
    before, _, table = PAGE.read_text(encoding="utf-8").partition(TABLE)
    for name in names or dict.fromkeys(found[1] for found in CONFIG.finditer(table)):
        text = stated(name)
        table = CONFIG.sub(lambda found, name=name, text=text: text if found[1] == name else found[0], table)
        PAGE.write_text(before + TABLE + table, encoding="utf-8")
        print(text, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
