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
        section: The key of the file that holds the state dict; of several, the first whose names are the network's.
        key_map: The map from the authors' names to ours.
        prefix: The prefix of the names in that section, if several networks share it.
        average_section: The key of the file that holds the averaged weights, a state dict or what torch_ema writes; of
            several, that which belongs to `section`; empty if there are none.
        average_prefix: The prefix of the names of the averages.
    """

    network: str
    section: str | tuple[str, ...]
    key_map: KeyMap
    prefix: str = ""
    average_section: str | tuple[str, ...] = ""
    average_prefix: str = ""

    @property
    def sections(self) -> tuple[tuple[str, str], ...]:
        """The keys of the weights, each with that of their averages."""
        if isinstance(self.section, str):
            assert isinstance(self.average_section, str)
            return ((self.section, self.average_section),)
        averages = self.average_section or ("",) * len(self.section)
        return tuple(zip(self.section, averages, strict=True))


@dataclass(frozen=True)
class PublishedLayout:
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
            section, average_section = _sections_of(contents, part)
            live = _network(contents, section, part.prefix, part.key_map)
            found |= {f"{part.network}.{name}": value for name, value in live.items()}
            average = live
            if average_section:
                contents = _with_named_average(contents, section, average_section)
                average = _network(contents, average_section, part.average_prefix, part.key_map)
            found |= {f"averages.{part.network}.module.{name}": value for name, value in average.items()}
        return found


def _sections_of(contents: Mapping[str, Any], part: Part) -> tuple[str, str]:
    """The key of a network's weights and that of their averages: the first pair whose names are the network's."""
    for section, average in part.sections:
        try:
            _network(contents, section, part.prefix, part.key_map)
        except UserError:
            continue
        return section, average
    return part.sections[0]


_BUFFERS = ("_u", "_v", "running_mean", "running_var", "num_batches_tracked")
"""The endings of the names of tensors that are no parameters, which torch_ema does not average."""


def _with_named_average(contents: Mapping[str, Any], section: str, average_section: str) -> Mapping[str, Any]:
    """The file with an average of torch_ema, a list in the order of the parameters, as a state dict.

    Raises:
        UserError: The list has another length than the network has parameters.
    """
    average = contents.get(average_section)
    if not isinstance(average, Mapping) or not isinstance(shadows := average.get("shadow_params"), list | tuple):
        return contents
    live = dict(contents[section])
    names = [name for name in live if not str(name).endswith(_BUFFERS)]
    if len(names) != len(shadows):
        raise UserError(
            f"its '{average_section}' has {len(shadows)} averages, and '{section}' has {len(names)} parameters"
        )
    return {**contents, average_section: live | dict(zip(names, shadows, strict=True))}


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


def _clel(config: str) -> PublishedLayout:
    return PublishedLayout(
        config,
        (
            Part("energy_net", "model", CLEL_ENERGY, "ebm.", "model", "ema_ebm."),
            Part("encoder", "model", CLEL_ENCODER, "encoder.", "model", "ema_encoder."),
        ),
        "hankook/CLEL @ ccccf50",
    )


_PI_OR_P = ("pi_state_dict", "p_state_dict")
"""In the released code pi is the energy and p the initializer; a file with the names exchanged is understood too."""
_PI_OR_P_AVERAGES = ("pi_ema_state_dict", "p_ema_state_dict")


def _cdrl(config: str, initializer_depth: int = 3) -> PublishedLayout:
    return PublishedLayout(
        config,
        (
            Part("energy_net", _PI_OR_P, cdrl_energy(8), average_section=_PI_OR_P_AVERAGES),
            Part(
                "initializer",
                _PI_OR_P[::-1],
                cdrl_initializer(initializer_depth, 3, (1, 2)),
                average_section=_PI_OR_P_AVERAGES[::-1],
            ),
        ),
        "AlvinZhuyx/CDRL @ d09d55a",
    )


def _dual_mcmc(config: str) -> PublishedLayout:
    return PublishedLayout(
        config,
        (
            Part("energy_net", "netE", DUAL_MCMC_ENERGY),
            Part("generator", "netG", DUAL_MCMC_GENERATOR),
            Part("inference", "netI", DUAL_MCMC_INFERENCE),
        ),
        "jcui1224/dual-MCMC @ aac3c4c",
    )


LAYOUTS: Mapping[str, PublishedLayout] = {
    "clel_cifar": _clel("clel_cifar"),
    "clel_large_cifar": _clel("clel_large_cifar"),
    "cdrl_cifar": _cdrl("cdrl_cifar"),
    "cdrl_large_cifar": _cdrl("cdrl_large_cifar"),
    "cdrl_class_imagenet32": _cdrl("cdrl_class_imagenet32", initializer_depth=2),
    "dual_mcmc_cifar": _dual_mcmc("dual_mcmc_cifar"),
    "dual_mcmc_celeba64": _dual_mcmc("dual_mcmc_celeba64"),
}
"""The published checkpoints that can be imported, by the name that `--as` takes."""
