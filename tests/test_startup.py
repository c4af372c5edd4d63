"""What a command loads, counted in modules: a clock would tell of the machine."""

import json
import subprocess
import sys

import pytest

HEAVY = {"torch", "torchvision", "lightning", "numpy", "scipy", "jsonargparse", "yaml", "wandb", "matplotlib", "PIL"}
COUNT = """
import json, sys
before = set(sys.modules)
try:
    exec({code!r})
except SystemExit as end:
    assert not end.code, end
print("\\n" + json.dumps(sorted(set(sys.modules) - before)))
"""


def loaded(code):
    """The modules that `code` loads into a fresh interpreter."""
    done = subprocess.run([sys.executable, "-c", COUNT.format(code=code)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def command(*args):
    return f"from ebmzoo.commands.cli import main; main({list(args)!r})"


@pytest.mark.parametrize(
    ("code", "own"),
    [
        ("import ebmzoo", 2),
        ("import ebmzoo; ebmzoo.__version__, ebmzoo.UserError", 3),
        (command("--help"), 7),
        (command("--version"), 7),
    ],
)
def test_the_front_door_loads_almost_nothing(code, own):
    modules = loaded(code)
    assert not modules & HEAVY
    assert sum(name.split(".")[0] == "ebmzoo" for name in modules) == own
    assert len(modules) < 60  # the standard library's


def test_compare_reads_files_and_loads_no_torch():
    modules = loaded(command("compare", "--help"))
    assert modules & HEAVY <= {"yaml"}
    assert len(modules) < 250


def test_a_wrong_command_loads_nothing():
    modules = loaded(
        "from ebmzoo.commands.cli import main\n"
        "try:\n    main(['fti'])\nexcept SystemExit as end:\n    assert end.code == 2"
    )
    assert not modules & HEAVY


@pytest.mark.parametrize("args", [("fit", "--help"), ("sample", "--help")])
def test_help_of_a_command_loads_no_dashboard(args):
    """wandb, the dashboard, and scikit-learn, the embedded digits, are loaded where they are used."""
    assert not loaded(command(*args)) & {"wandb", "sklearn", "lmdb"}


def test_what_a_command_loads_is_not_searched_for_garbage():
    code = (
        "import gc, sys\nfrom ebmzoo.commands import run\n"
        "frozen = []\n"
        "import ebmzoo.commands.configs as configs\n"
        "configs.main = lambda args: frozen.append((gc.get_freeze_count(), gc.isenabled()))\n"
        "run(['configs'])\nrun(['configs'], own_process=True)\n"
        "(embedded, on), (own, still_on) = frozen\n"
        "assert embedded == 0 and own > 1000 and on and still_on, frozen"
    )
    loaded(code)
