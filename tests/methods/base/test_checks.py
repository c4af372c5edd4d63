"""A sentence says what is wrong with a method: when its class is written, when it is built, and when a fit starts."""

import inspect

import pytest
import torch
from torch import nn
from torch.optim import SGD

from ebmzoo.errors import UserError
from ebmzoo.methods import LIEBM, Method, NetworkOptimizer, RunsChain, Samples, averaged, baselines, optimizers_of
from ebmzoo.methods import __all__ as names_of_methods
from ebmzoo.methods.base.checks import missing_members
from ebmzoo.methods.families import ChainFromNoise, RestoresByEnergy
from support.tiny import TinyData, trainer

CONCRETE = [
    kind
    for package, names in (("ebmzoo.methods", names_of_methods), ("ebmzoo.methods.baselines", baselines.__all__))
    for name in names
    if inspect.isclass(kind := getattr(__import__(package, fromlist=[name]), name))
    and issubclass(kind, Method)
    and not inspect.isabstract(kind)
]


class One(Method):
    """A method of one weight, with nothing wrong."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(1, 1)

    def trained_networks(self):
        return {"net": NetworkOptimizer(self.net, lambda p: SGD(p, lr=0.1))}

    def iterate(self, images, labels):
        return {"norm": self.minimize(self.net.weight.square().sum(), "net")}

    def energy(self, x):
        return x.flatten(1).sum(1)

    def sample(self, n, *, labels=None, steps=None, generator=None):
        return Samples(torch.zeros(n, 1, 8, 8), 0, "noise", 0, 1.0)


def with_attributes(**attributes):
    """`One`, with more set after its construction has begun."""

    class More(One):
        def __init__(self):
            super().__init__()
            for name, value in attributes.items():
                setattr(self, name, value)

    return More


def fits(method, tmp_path):
    trainer(tmp_path, max_steps=1).fit(method, TinyData())


def test_a_method_with_nothing_wrong_is_built_and_trained(tmp_path):
    fits(One(), tmp_path)


# ── where the class is written ──────────────────────────────────────────────────────────────────────────────────────


def test_a_final_member_may_not_be_defined():
    with pytest.raises(TypeError, match=r"Own\.training_step may not be defined: it is final in Method"):
        type("Own", (One,), {"training_step": lambda self, batch, batch_idx: None})
    with pytest.raises(TypeError, match=r"Own\.sample may not be defined: it is final in ChainFromNoise"):
        type("Own", (ChainFromNoise,), {"sample": One.sample})
    with pytest.raises(TypeError, match=r"Own\.chain_steps may not be defined: it is final in ChainFromNoise"):
        type("Own", (ChainFromNoise,), {"chain_steps": property(lambda self: 1)})


def test_arguments_are_those_of_the_interface():
    message = r"Own\.sample must take n, labels, steps, generator; it lacks labels, generator"
    with pytest.raises(TypeError, match=message):
        type("Own", (One,), {"sample": lambda self, n, steps=None: None})
    with pytest.raises(TypeError, match=r"Own\.long_chain must take n, steps, generator; it lacks generator"):
        type("Own", (One, RunsChain), {"long_chain": lambda self, n, steps: None})
    with pytest.raises(TypeError, match=r"Own\.ood_score must take x; it lacks x"):
        type("Own", (One,), {"ood_score": lambda self, images: None})
    type("Own", (One,), {"sample": lambda self, n, **others: None})


def test_properties_are_properties_and_methods_are_methods():
    with pytest.raises(TypeError, match=r"Own\.chain_steps must be a property, as RunsChain declares it"):
        type("Own", (One, RunsChain), {"chain_steps": lambda self: 1})
    with pytest.raises(TypeError, match=r"Own\.energy must be a method, not a property, as Method declares it"):
        type("Own", (Method,), {"energy": property(lambda self: 1)})


# ── where an object is built ────────────────────────────────────────────────────────────────────────────────────────


def test_missing_members_are_all_named():
    class Without(One, RunsChain):
        pass

    assert missing_members(Without) == ["the property chain_steps (of RunsChain)", "long_chain (of RunsChain)"]
    with pytest.raises(TypeError, match=r"Without must define the property chain_steps \(of RunsChain\), long_chain"):
        Without()
    with pytest.raises(TypeError, match=r"Method must define energy \(of Method\), iterate \(of Method\), sample"):
        Method()


def test_an_attribute_that_a_capability_needs_is_named():
    class Chained(One, RestoresByEnergy):
        def chain_energy(self):
            return self.energy

    with pytest.raises(UserError, match="Chained has no attribute 'sampler', which HasChain needs: set it in __init__"):
        Chained()


def test_an_init_calls_that_of_its_base():
    class Forgets(One):
        def __init__(self):
            self.scale = 2.0

    with pytest.raises(UserError, match=r"Forgets\.__init__ must call super\(\)\.__init__\(\) before"):
        Forgets()


def test_an_average_is_of_a_network_and_by_averaged():
    net = nn.Linear(1, 1)
    with pytest.raises(UserError, match=r"More\.averages has 'other', but the method has no network of that name"):
        with_attributes(averages=averaged(0.9, other=net))()
    for wrong in ({"net": net}, nn.ModuleDict({"net": net})):
        with pytest.raises(UserError, match=r"More\.averages must be what `averaged\(decay, name=network\)` returns"):
            with_attributes(averages=wrong)()
    with_attributes(averages=averaged(0.9, net=net))()


@pytest.mark.parametrize("name", ["energy.net", "energy/net", "energy net", ""])
def test_a_network_s_name_is_an_identifier(name, tmp_path):
    with pytest.raises(UserError, match=f"names a network '{name}'; a name of letters, digits and underscores"):
        averaged(0.9, **{name: nn.Linear(1, 1)})

    class Named(One):
        def trained_networks(self):
            return {name: super().trained_networks()["net"]}

    with pytest.raises(UserError, match=rf"Named\.trained_networks\(\) names a network '{name}'"):
        fits(Named(), tmp_path)


def test_a_signature_is_that_of_init():
    assert list(inspect.signature(LIEBM).parameters)[:3] == ["energy_net", "generator", "sampler"]
    assert not inspect.signature(One).parameters


# ── at the start of a fit ───────────────────────────────────────────────────────────────────────────────────────────


def trains(networks):
    class Own(One):
        def trained_networks(self):
            return networks(self)

    return Own()


@pytest.mark.parametrize(
    ("networks", "message"),
    [
        (lambda m: {}, r"Own\.trained_networks\(\) is empty; it must name the networks that are trained"),
        (lambda m: {"net": m.net}, r"trained_networks\(\)\['net'\] is a Linear; a NetworkOptimizer is needed"),
        (
            lambda m: {"net": NetworkOptimizer(nn.Linear(1, 1), lambda p: SGD(p, lr=0.1))},
            r"trained_networks\(\) has 'net', but the method has no such network, and no checkpoint would contain it",
        ),
        (
            lambda m: {"net": NetworkOptimizer(m.net.requires_grad_(False), lambda p: SGD(p, lr=0.1))},
            "no parameter of the network 'net' needs a gradient",
        ),
        (lambda m: optimizers_of(m, {"nett": SGD}), "Own has an optimizer for 'nett', but no network of that name"),
    ],
)
def test_trained_networks_are_the_method_s(networks, message, tmp_path):
    with pytest.raises(UserError, match=message):
        fits(trains(networks), tmp_path)


# ── in the first iteration ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("names", "message"), [(("nett",), "Own minimizes nett, but trained_networks"), ((), "Own minimizes no network")]
)
def test_minimize_takes_the_names_of_trained_networks(names, message, tmp_path):
    class Own(One):
        def iterate(self, images, labels):
            return {"norm": self.minimize(self.net.weight.square().sum(), *names)}

    with pytest.raises(UserError, match=message):
        fits(Own(), tmp_path)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (None, r"Own\.iterate returned a NoneType; a dict of scalar tensors is needed"),
        ({"loss": 1.0}, r"Own\.iterate logs 'loss' as float; a scalar tensor is needed"),
        ({"loss": torch.ones(3)}, r"Own\.iterate logs 'loss' as a tensor of shape \(3,\); a scalar tensor is needed"),
        ({1: torch.ones(())}, r"Own\.iterate logs a value under 1; a string is needed"),
    ],
)
def test_log_values_are_scalars_by_name(values, message, tmp_path):
    class Own(One):
        def iterate(self, images, labels):
            return values

    with pytest.raises(UserError, match=message):
        fits(Own(), tmp_path)


# ── what a class says of itself ─────────────────────────────────────────────────────────────────────────────────────


def test_there_are_as_many_methods_as_the_zoo_has():
    assert len(CONCRETE) == 18


@pytest.mark.parametrize("kind", CONCRETE, ids=lambda kind: kind.__name__)
def test_every_method_names_its_paper_in_its_docstring(kind):
    """The docstring and the attribute say the same; baselines are what the package `baselines` exports."""
    assert f"Paper: {kind.paper}." in " ".join(kind.__doc__.split())
    assert kind.is_baseline == (kind.__name__ in baselines.__all__)
