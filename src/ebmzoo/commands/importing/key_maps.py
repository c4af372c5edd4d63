"""The names of the authors' tensors in our networks, one map per published network.

A map takes the name of a tensor in the authors' state dict and returns its name in ours. It understands both spellings
of spectral norm: `weight_orig`, `weight_u`, `weight_v` of `torch.nn.utils.spectral_norm`, and the parametrization that
replaced it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from torch import Tensor

KeyMap = Callable[[str], str]
"""The name of a tensor in the authors' network to its name in ours; raises `KeyError` for a name it does not know."""

_SPECTRAL = {
    "weight_orig": "parametrizations.weight.original",
    "weight_u": "parametrizations.weight.0._u",
    "weight_v": "parametrizations.weight.0._v",
}
_LEAF = re.compile(
    r"(?P<module>.*?)\.?(?P<leaf>parametrizations\.weight\.(?:original|0\._[uv])|weight_(?:orig|u|v)|[^.]+)$"
)


def _by_module(rename: Callable[[str], str], leaves: dict[str, str] | None = None) -> KeyMap:
    """A map that renames the module by `rename`, and the last part of a name by `leaves` and the spectral spellings."""

    def renamed(key: str) -> str:
        found = _LEAF.match(key)
        if found is None:
            raise KeyError(key)
        leaf = _SPECTRAL.get(found["leaf"], found["leaf"])
        leaf = (leaves or {}).get(leaf, leaf)
        module = rename(found["module"])
        return f"{module}.{leaf}" if module else leaf

    return renamed


def _by_rules(rules: Sequence[tuple[str, str | Callable[[re.Match[str]], str]]]) -> Callable[[str], str]:
    """The replacement of the first rule, a regular expression, that a whole module name matches."""

    def renamed(module: str) -> str:
        for pattern, replacement in rules:
            if (found := re.fullmatch(pattern, module)) is not None:
                return found.expand(replacement) if isinstance(replacement, str) else replacement(found)
        raise KeyError(module)

    return renamed


def _clel_tower(found: re.Match[str]) -> str:
    """Their stage s > 0 begins with a pooling layer; our tower is one sequence with the first convolution in front."""
    tower = int(found[1] or 1) - 1
    stage, block = int(found[2]), int(found[3])
    place = 1 + block if stage == 0 else 3 * stage + block
    return f"trunk.towers.{tower}.{place}{found[4]}"


CLEL_ENERGY: KeyMap = _by_module(
    _by_rules(
        [
            (r"stem\d?\.0", "trunk"),  # mean and std, equal in all towers
            (r"stem(\d?)\.1", lambda found: f"trunk.towers.{int(found[1] or 1) - 1}.0"),
            (r"stages(\d?)\.(\d)\.(\d)(\..+)", _clel_tower),
            (r"head\.(\d)", r"trunk.head.\1"),
            (r"projection\.(\d)", r"projection.\1"),
        ]
    )
)
"""CLEL's energy network, base and large (hankook/CLEL) to `CLELEnergy`."""

CLEL_ENCODER: KeyMap = _by_module(
    _by_rules(
        [
            (r"conv1\.0", ""),  # mean and std
            (r"conv1\.1", "backbone.0"),
            (r"bn1", "backbone.1"),
            (r"layer(\d)\.(\d)(\..+)", lambda found: f"backbone.{2 * int(found[1]) + 1 + int(found[2])}{found[3]}"),
            (r"fc\.(\d)", r"head.\1"),
        ]
    )
)
"""CLEL's ResNet-18 encoder to `ResNetEncoder`."""

_DUAL_BLOCK = {"bn_1": "norm1", "bn_2": "norm2", "sc": "shortcut", "conv1": "conv1", "conv2": "conv2"}

DUAL_MCMC_ENERGY: KeyMap = _by_module(
    _by_rules(
        [
            (r"conv_1\.(\w+)", lambda found: f"trunk.blocks.0.{_DUAL_BLOCK[found[1]]}"),
            (r"block(\d+)\.(\w+)", lambda found: f"trunk.blocks.{int(found[1]) - 1}.{_DUAL_BLOCK[found[2]]}"),
            (r"lin_\d+", "trunk.last"),
        ]
    )
)
"""Dual-MCMC's energy (jcui1224/dual-MCMC) to `SNGANEnergy`."""

DUAL_MCMC_GENERATOR: KeyMap = _by_module(
    _by_rules(
        [
            (r"lin_1", "first"),
            (r"block(\d+)\.(\w+)", lambda found: f"blocks.{int(found[1]) - 2}.{_DUAL_BLOCK[found[2]]}"),
            (r"bn_\d+", "norm"),
            (r"conv\d+", "last"),
        ]
    )
)
"""Dual-MCMC's generator to `SNGANGenerator`."""

DUAL_MCMC_INFERENCE: KeyMap = _by_module(
    _by_rules(
        [
            (r"main\.(\d+)", lambda found: f"convs.{int(found[1]) // 2}"),
            (r"conv\d1", "mean"),
            (r"conv\d2", "logvar"),
        ]
    )
)
"""Dual-MCMC's inference network to `SNGANInference`."""

_CDRL_BLOCK = {"conv1": "layer1", "conv2": "layer2", "temb_map": "time", "short_cut": "shortcut"}


def cdrl_energy(depth: int) -> KeyMap:
    """CDRL's energy (AlvinZhuyx/CDRL), `depth` blocks and a pooling layer per stage, to `RecoveryResNet`."""

    def block(found: re.Match[str]) -> str:
        stage, place = divmod(int(found[1]) - 1, depth + 1)
        inner = f".{_CDRL_BLOCK[found[2]]}" if found[2] else ""
        return f"tower.stages.{stage}.{place}{inner}"

    rules: list[tuple[str, str | Callable[[re.Match[str]], str]]] = [
        (r"temb_map1", "tower.embed.first"),
        (r"temb_map2", "tower.embed.second"),
        (r"y_map", "tower.embed.label"),
        (r"module_list\.0", "tower.first"),
        (r"module_list\.(\d+)(?:\.(\w+))?", block),
        (r"temb_final", "tower.last"),
    ]
    return _by_module(_by_rules(rules), {"g": "gain"})


_UNET_PARTS = {
    **{name: name for name in ("norm1", "norm2", "conv1", "conv2", "norm")},
    "mlp.1": "time",
    "res_conv": "shortcut",
    "to_qkv": "qkv",
    "to_out": "project",
}


def cdrl_initializer(depth: int, resolutions: int, attention: Sequence[int]) -> KeyMap:
    """CDRL's U-Net to `UNet`; their attention layers are members of the sequence, ours belong to the block before."""

    def step(path: str, level: int, place: int, part: str) -> str:
        blocks = depth if path == "down" else depth + 1
        resolution = level if path == "down" else resolutions - 1 - level
        first = level * (blocks + 1)
        stride = 2 if resolution in attention else 1
        name = _UNET_PARTS[part]
        if place == stride * blocks:  # the block that halves or doubles the size
            return f"{path}.steps.{first + blocks}.{name}"
        kind = "attention" if place % stride else "block"
        return f"{path}.steps.{first + place // stride}.{kind}.{name}"

    parts = "|".join(map(re.escape, _UNET_PARTS))
    rules: list[tuple[str, str | Callable[[re.Match[str]], str]]] = [
        (r"init_conv", "down.first"),
        (r"time_mlp\.1", "embed.first"),
        (r"time_mlp\.3", "embed.second"),
        (r"y_mlp\.0", "embed.label"),
        (rf"(down|up)s\.(\d+)\.(\d+)\.({parts})", lambda found: step(found[1], int(found[2]), int(found[3]), found[4])),
        (rf"mid_block1\.({parts})", lambda found: f"middle.step.block.{_UNET_PARTS[found[1]]}"),
        (rf"mid_attn\.({parts})", lambda found: f"middle.step.attention.{_UNET_PARTS[found[1]]}"),
        (rf"mid_block2\.({parts})", lambda found: f"middle.block.{_UNET_PARTS[found[1]]}"),
        (r"norm", "up.norm"),
        (r"final_conv", "up.last"),
    ]
    return _by_module(_by_rules(rules))


def renamed(state: dict[str, Tensor], key_map: KeyMap) -> dict[str, Tensor]:
    """The authors' state dict under our names, without the prefix `module.` of data-parallel training.

    Raises:
        KeyError: The map does not know a name, or maps two names with different values to one.
    """
    ours: dict[str, Tensor] = {}
    for key, value in state.items():
        try:
            name = key_map(key.removeprefix("module."))
        except KeyError:
            raise KeyError(key) from None
        if name in ours and not ours[name].equal(value):
            raise KeyError(key)
        ours[name] = value
    return ours
