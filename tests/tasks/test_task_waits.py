"""Every task on a device that is not there: the host waits to read results, and nowhere else."""

from dataclasses import replace

import pytest

from ebmzoo.data import UniformNoise
from ebmzoo.data.degradations import Downsample
from ebmzoo.metrics import Pixels
from ebmzoo.tasks import Restoration
from ebmzoo.tasks.suite import _kinds
from support.elsewhere import on_a_device
from support.family import FAMILY
from support.tiny import TinyData

pytestmark = pytest.mark.usefixtures("fakes_collected")

CHAIN = "sampling/langevin.py: _raise_if_diverged"
FEATURES = "metrics/extractors.py: extract"
WAITS = {
    "classification": {"tasks/classification.py: __call__", "tasks/classification.py: <listcomp>"},
    "cost": {CHAIN, "tasks/generation.py: draw"},
    "denoising": {"metrics/fidelity.py: fidelity", "tasks/denoising.py: <listcomp>"},
    "generation": {CHAIN, "tasks/generation.py: draw", FEATURES},
    "inpainting": {CHAIN, "tasks/inpainting.py: _fill", FEATURES},
    "interpolation": {"tasks/interpolation.py: path_ratio"},
    "intrinsic_dimension": {"tasks/intrinsic_dimension.py: curvatures"},
    "likelihood": set(),  # of the settings here, with which no run is long enough
    "ood": {CHAIN, "tasks/ood.py: _scored"},
    "reconstruction": {CHAIN, "metrics/fidelity.py: fidelity", "tasks/reconstruction.py: _follow"},
    "representation": {"tasks/representation.py: _features"},
    "restoration": {CHAIN, "tasks/restoration.py: <listcomp>"},
    "revision": {CHAIN, "tasks/paths.py: follow", FEATURES},
    "stability": {"tasks/stability.py: __call__"},
    "stages": {"tasks/paths.py: follow", "tasks/stages.py: add", "tasks/stages.py: points", CHAIN, FEATURES},
}
"""Where results are copied to the host, or a chain is checked."""
OF_THEIR_OWN = {"compositional", "conditional", "density", "guidance"}
"""Tasks that need a trained classifier, or points of the plane."""
FIRST = ("LIEBM, no latent", "LIEBM, encoder", "Dual-MCMC", "CDRL, no initializer", "Denoising-EBM")
"""The quickest methods, of which the first that a task supports is taken."""


def few(task):
    """The task with a few images, steps and rows."""
    if isinstance(task, Restoration):
        task.operators = [Downsample(2)]
        task.restoring = replace(task.restoring, steps=1, latent_steps=1, starts=1, projections=1)
    for name, value in vars(task).items():
        if name == "repeats":
            setattr(task, name, 1)
        elif isinstance(value, int) and not isinstance(value, bool) and value > 4:
            setattr(task, name, 8 if name in ("bins", "n_train", "n_test") else 4)
        elif isinstance(value, tuple | list) and value and name != "extractors":
            setattr(task, name, type(value)([at_most_two(value[0])]))
    return task


def at_most_two(value):
    if isinstance(value, tuple | list):
        return type(value)(at_most_two(v) for v in value)
    return min(value, 2) if type(value) is int else value


def test_no_task_is_left_out():
    assert {*WAITS, *OF_THEIR_OWN} == set(_kinds())


@pytest.mark.parametrize("name", WAITS)
def test_the_host_waits_for_results_only(name):
    task, data = few(_kinds()[name].standard([Pixels()])), TinyData(n=16, ood=[UniformNoise(n=8)])
    method = next(made for key in (*FIRST, *FAMILY) if task.fits(made := FAMILY[key](), data))
    with on_a_device(method, "bf16-mixed") as (elsewhere, _):
        task(method, data)
    assert set(elsewhere.waits) == WAITS[name]
