"""Reading configs: errors that fit in a sentence, and a model from the text of a config."""

from __future__ import annotations

import difflib
import re
import sys
from typing import Any, NoReturn

import yaml
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LightningArgumentParser

from ebmzoo.errors import UserError


class ZooParser(LightningArgumentParser):
    """A parser whose errors are one sentence, with the nearest right name, and exit code 2."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        print(f"ebmzoo: {self.sentence(str(message))}", file=sys.stderr)
        raise SystemExit(2)

    def sentence(self, message: str) -> str:
        """The part of jsonargparse's message that says what is wrong, and the nearest name there is."""
        lines = [line.strip(" -") for line in message.splitlines() if line.strip()]
        told = " ".join(lines)
        unknown = re.search(r"(?:[Kk]ey|[Oo]ption) '([\w.-]+)' is not (?:expected|accepted)", told)
        unknown = unknown or re.search(r"[Uu]nrecognized arguments: --([\w.-]+)", told)
        if unknown is None:
            return told if len(told) <= 400 else f"{told[:200]} … {told[-180:]}"
        name = unknown[1]
        near = difflib.get_close_matches(_plain(name), [_plain(n) for n in self.names()], n=1, cutoff=0.6)
        return f"there is no key '{name}'" + (f"; did you mean '{near[0]}'?" if near else "")

    def names(self) -> list[str]:
        """The keys that this parser and its subcommands know."""
        parsers: list[Any] = [self]
        if (subcommands := getattr(self, "_subcommands_action", None)) is not None:
            parsers += subcommands._name_parser_map.values()
        return [a.dest for p in parsers for a in p._actions if not a.dest.endswith("help")]


def _plain(name: str) -> str:
    return name.replace(".init_args", "").replace("-", "_")


def build_model(config: str) -> LightningModule:
    """The `model:` of a config's YAML text, instantiated.

    Raises:
        UserError: the text holds no model.
    """
    section = (yaml.safe_load(config) or {}).get("model")
    if section is None:
        raise UserError("the config has no model")
    parser = ZooParser()
    parser.add_lightning_class_args(LightningModule, "model", subclass_mode=True)
    model = parser.instantiate_classes(parser.parse_object({"model": section})).model
    assert isinstance(model, LightningModule)
    return model
