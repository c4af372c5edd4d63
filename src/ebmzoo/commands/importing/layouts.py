"""The layouts of the files that the authors publish, and the networks of ours that they fill."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ebmzoo.commands.importing.key_maps import (
    CLEL_ENCODER,
    CLEL_ENERGY,
    DUAL_MCMC_ENERGY,
    DUAL_MCMC_GENERATOR,
    DUAL_MCMC_INFERENCE,
    KeyMap,
    cdrl_energy,
    cdrl_initializer,
    renamed,
)
from ebmzoo.errors import UserError


@dataclass(frozen=True)
class Part:
    """One network of a published file.

    Args:
        network: The name of the network in our method.
        section: The key of the file that holds the state dict.
        key_map: The map from the authors' names to ours.
        prefix: The prefix of the names in that section, if several networks share it.
        average_section: The key of the file that holds the averaged weights; empty if there are none.
        average_prefix: The prefix of the names of the averages.
    """

    network: str
    section: str
    key_map: KeyMap
    prefix: str = ""
    average_section: str = ""
    average_prefix: str = ""


@dataclass(frozen=True)
class Layout:
    """A published checkpoint: the configuration of ours that it fits, its networks and its source.

    Args:
        config: The name of the configuration.
        parts: The networks.
        source: Repository and commit of the code that writes such files.
    """

    config: str
    parts: tuple[Part, ...]
    source: str

    def weights(self, contents: Mapping[str, Any]) -> dict[str, Tensor]:
        """The tensors of a file under the names of our method's state dict, averages included.

        Raises:
            UserError: A section is missing, or a tensor's name is not one of the network's.
        """
        found: dict[str, Tensor] = {}
        for part in self.parts:
            live = _network(contents, part.section, part.prefix, part.key_map)
            found |= {f"{part.network}.{name}": value for name, value in live.items()}
            average = live
            if part.average_section:
                average = _network(contents, part.average_section, part.average_prefix, part.key_map)
            found |= {f"averages.{part.network}.module.{name}": value for name, value in average.items()}
        return found


def _network(contents: Mapping[str, Any], section: str, prefix: str, key_map: KeyMap) -> dict[str, Tensor]:
    state = contents.get(section)
    if not isinstance(state, Mapping):
        raise UserError(f"it has no '{section}', only {', '.join(sorted(map(str, contents))) or 'nothing'}")
    names = {str(key).removeprefix("module."): value for key, value in state.items()}
    chosen = {key.removeprefix(prefix): value for key, value in names.items() if key.startswith(prefix)}
    if not chosen:
        raise UserError(f"its '{section}' has no tensor whose name begins with '{prefix}'")
    tensors = {key: value for key, value in chosen.items() if isinstance(value, Tensor)}
    try:
        return renamed(tensors, key_map)
    except KeyError as error:
        raise UserError(
            f"its '{section}' has a tensor that this network does not: '{prefix}{error.args[0]}'"
        ) from error


def shapes(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> Iterator[str]:
    """Yield a phrase for each tensor that does not fit; shapes that differ only by dimensions of size one are equal."""
    for name in sorted(ours.keys() | theirs.keys()):
        if name not in theirs:
            yield f"'{name}' is missing"
        elif name not in ours:
            yield f"'{name}' is not in this network"
        elif ours[name].numel() != theirs[name].numel() or _sides(ours[name]) != _sides(theirs[name]):
            yield f"'{name}' is {tuple(theirs[name].shape)} and must be {tuple(ours[name].shape)}"


def _sides(tensor: Tensor) -> list[int]:
    return [side for side in tensor.shape if side != 1]


def _clel(config: str) -> Layout:
    return Layout(
        config,
        (
            Part("energy_net", "model", CLEL_ENERGY, "ebm.", "model", "ema_ebm."),
            Part("encoder", "model", CLEL_ENCODER, "encoder.", "model", "ema_encoder."),
        ),
        "hankook/CLEL @ ccccf50",
    )


def _cdrl(config: str, initializer_depth: int = 3) -> Layout:
    return Layout(
        config,
        (
            Part("energy_net", "p_state_dict", cdrl_energy(8), average_section="p_ema_state_dict"),
            Part(
                "initializer",
                "pi_state_dict",
                cdrl_initializer(initializer_depth, 3, (1, 2)),
                average_section="pi_ema_state_dict",
            ),
        ),
        "AlvinZhuyx/CDRL @ d09d55a",
    )


def _dual_mcmc(config: str) -> Layout:
    return Layout(
        config,
        (
            Part("energy_net", "netE", DUAL_MCMC_ENERGY),
            Part("generator", "netG", DUAL_MCMC_GENERATOR),
            Part("inference", "netI", DUAL_MCMC_INFERENCE),
        ),
        "jcui1224/dual-MCMC @ aac3c4c",
    )


LAYOUTS: Mapping[str, Layout] = {
    "clel_cifar": _clel("clel_cifar"),
    "clel_large_cifar": _clel("clel_large_cifar"),
    "cdrl_cifar": _cdrl("cdrl_cifar"),
    "cdrl_large_cifar": _cdrl("cdrl_large_cifar"),
    "cdrl_class_imagenet32": _cdrl("cdrl_class_imagenet32", initializer_depth=2),
    "dual_mcmc_cifar": _dual_mcmc("dual_mcmc_cifar"),
    "dual_mcmc_celeba64": _dual_mcmc("dual_mcmc_celeba64"),
}
"""The published checkpoints that can be imported, by the name that `--as` takes."""
