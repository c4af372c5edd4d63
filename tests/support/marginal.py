"""Small models of the baselines that train only an energy."""

from ebmzoo.methods.baselines import IGEBM, ImprovedCD, ShortRunEBM
from ebmzoo.sampling.langevin import Langevin
from support.tiny import cooperative

UNIT = Langevin(steps=2, step_size=0.1, noise=0.01, bounds=(0, 1))


def of(kind, sampler, changes):
    return kind(**cooperative("energy_net") | {"sampler": sampler, "in_channels": 1, "size": 8} | changes)


def short_run(**changes):
    return of(ShortRunEBM, Langevin(2, 0.1, 0.01), changes)


def igebm(**changes):
    return of(IGEBM, UNIT, {"replay_size": 64} | changes)


def improved_cd(**changes):
    return of(ImprovedCD, UNIT, {"replay_size": 64, "neighbours": 2} | changes)
