"""Limits of what jsonargparse reads: local regular files of a configuration's size, and YAML that stays small."""

from __future__ import annotations

from typing import Any

from jsonargparse import _loaders_dumpers, _paths, set_parsing_settings

from ebmzoo.reading import CONFIG_BYTES, limited, read_text


def limit_parser() -> None:
    """Limit every parser of this process: a value of a configuration may itself be YAML, or name a file with it.

    Without this a value could name a device, which is read without end, or an address on the network.
    """
    set_parsing_settings(config_read_mode_urls_enabled=False, config_read_mode_fsspec_enabled=False)
    loaders: Any = _loaders_dumpers
    loaders.yaml_default_loader = limited(loaders.get_yaml_default_loader())
    kind: Any = _paths.Path
    unlimited = kind.read_text

    def within_limits(path: Any) -> str:
        return unlimited(path) if path._std_io else read_text(path.absolute, CONFIG_BYTES)

    kind.read_text = within_limits
