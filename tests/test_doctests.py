"""The examples in docstrings are run, and every public class of the numerical packages has one."""

import doctest
import inspect
from importlib import import_module
from pkgutil import walk_packages

import pytest
import torch

import ebmzoo

MODULES = sorted(module.name for module in walk_packages(ebmzoo.__path__, "ebmzoo.") if not module.name.endswith("__"))
PACKAGES = ("ebmzoo.sampling", "ebmzoo.networks", "ebmzoo.networks.autoencoder", "ebmzoo.metrics")
NEEDS_DOWNLOAD = {"DiffusersAutoencoder"}


def classes(package):
    return [kind for name in package.__all__ if inspect.isclass(kind := getattr(package, name))]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    module = import_module(name)
    examples = [test for test in doctest.DocTestFinder().find(module, extraglobs={"torch": torch}) if test.examples]
    if not examples:
        pytest.skip("no examples")
    runner = doctest.DocTestRunner()
    for test in examples:
        torch.manual_seed(0)
        report = []
        runner.run(test, out=report.append)
        assert not runner.failures, "".join(report)


@pytest.mark.parametrize("name", PACKAGES)
def test_every_public_class_has_an_example(name):
    kinds = [kind for kind in classes(import_module(name)) if kind.__name__ not in NEEDS_DOWNLOAD]
    assert kinds
    missing = [kind.__name__ for kind in kinds if ">>>" not in (vars(kind).get("__doc__") or "")]
    assert not missing, f"docstrings without an example: {missing}"
