"""What pyproject.toml asks for: an oldest version of each dependency, and no release that was compromised."""

import tomllib

import pytest
from packaging.requirements import Requirement

from support.paths import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = ("all", "dashboard", "bench")
LISTED = [*PROJECT["dependencies"], *(found for extra in EXTRAS for found in PROJECT["optional-dependencies"][extra])]
NEEDED = {requirement.name: requirement.specifier for requirement in map(Requirement, LISTED)}


@pytest.mark.parametrize("name", NEEDED)
def test_every_dependency_has_an_oldest_version(name):
    """Without one, `make test-oldest` would not be about it."""
    assert any(part.operator in (">=", "==", "~=") for part in NEEDED[name]), LISTED


def test_compromised_releases_are_excluded():
    lightning = NEEDED["lightning"]
    assert not {"2.6.2", "2.6.3"} & set(lightning.filter(["2.6.2", "2.6.3", "2.6.4"]))
    assert "2.6.4" in lightning
