"""Networks for images of another shape than a configuration's own: `--data.size 64` reaches the keys of the model."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from jsonargparse._actions import ActionConfigFile
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import rank_zero_only

from ebmzoo.commands.command_line import CONFIG, Option, options
from ebmzoo.data.matching import ImageShape, matched
from ebmzoo.errors import Misread, UserError
from ebmzoo.reading import CONFIG_BYTES, read_text
from ebmzoo.training.config import ZooParser, sections
from ebmzoo.writing import write_whole


def with_networks_for_data(args: Sequence[str], folder: Path) -> list[str]:
    """The command line of `fit`, with networks for the images of its data where those are not the config's own.

    The config is written into `folder` with other numbers in its model; options such as `--model.size` override them.

    Args:
        args: The ordered command line, whose configurations are files that extend no other.
        folder: The folder for the config.
    """
    line = options(args)
    configs = {at: content for at, option in enumerate(line) if (content := _content(option)) is not None}
    complete = [at for at, content in configs.items() if {"model", "data"} <= content.keys()]
    data = [option for option in line if option.name == "--data" or option.name.startswith("--data.")]
    if not complete or not (data or len(configs) > 1) or any(option.name.endswith("help") for option in data):
        return list(args)
    at = complete[-1]
    before = _shape([configs[at]], [], folder)
    after = _shape(list(configs.values()), data, folder)
    model = configs[at]["model"]
    if before is None or after is None or before == after or not isinstance(model, Mapping):
        return list(args)
    model, keys = matched(model, before, after)
    if keys and getattr(rank_zero_only, "rank", 0) == 0:
        what = f"data: images are {_text(after)} instead of the config's {_text(before)}"
        print(f"{what}, and the model follows in {', '.join(keys)}", file=sys.stderr)
    given = Path(line[at].value or "")
    # The names of file and folder are kept: the folder's identifies an ablation.
    written = folder / "data" / given.resolve().parent.name / given.name
    changed = configs[at] | {"model": model}
    write_whole(written, yaml.safe_dump(changed, sort_keys=False, allow_unicode=True), flush=False)
    line[at] = Option(("--config", str(written)))
    return [args[0], *(word for option in line for word in option.words)]


def _text(shape: ImageShape) -> str:
    return f"{shape.channels}×{shape.size}×{shape.size}"


def _content(option: Option) -> dict[str, Any] | None:
    """The keys of an option's config; None for another option, and for a file that the parser will refuse."""
    if option.name not in CONFIG or option.value is None:
        return None
    try:
        return sections(read_text(option.value, CONFIG_BYTES))
    except (OSError, ValueError, UserError):
        return None


def _shape(configs: Sequence[Mapping[str, Any]], data: Sequence[Option], folder: Path) -> ImageShape | None:
    """The shape of the images of configs and options; None where it is not known, or the parser will refuse them."""
    parser = ZooParser()
    parser.add_argument("--config", action=ActionConfigFile)
    parser.add_lightning_class_args(LightningDataModule, "data", subclass_mode=True, required=False)
    args = []
    for at, content in enumerate(configs):
        if content.get("data") is not None:
            path = folder / f"data{at}.yaml"
            write_whole(path, yaml.safe_dump({"data": content["data"]}), flush=False)
            args += ["--config", str(path)]
    try:
        section = parser.parse_args([*args, *(word for option in data for word in option.words)]).get("data")
    except (Misread, UserError, ValueError, TypeError):
        return None
    if section is None:
        return None
    return ImageShape.of(section.class_path, vars(section.get("init_args") or {}))
