"""`ebmzoo completion`: what bash offers with the script that is printed."""

import re
import subprocess

import pytest

from ebmzoo.commands import completion
from ebmzoo.commands.cli import COMMANDS, main
from ebmzoo.commands.completion import SHELLS, script
from support.command_line import fails

ASK = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(( $# - 1 )); COMP_TYPE=9; COMPREPLY=()
_shtab_ebmzoo
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def bash(tmp_path_factory):
    path = tmp_path_factory.mktemp("bash") / "ebmzoo"
    path.write_text(script("bash"))
    (path.parent / "clel_mine.yaml").touch()
    return path


@pytest.mark.parametrize(
    ("line", "offered", "not_offered"),
    [
        ("ebmzoo co", {"compare", "configs", "completion"}, {"fit"}),
        ("ebmzoo fit --config clel_", {"clel_cifar", "clel_beta01_cifar", "clel_mine.yaml"}, {"vae_cifar"}),
        ("ebmzoo fit --data ebmzoo.data.Image", {"ebmzoo.data.ImageFolder"}, {"ebmzoo.data.ImageData"}),
        ("ebmzoo fit --model ebmzoo.methods.baselines.V", {"ebmzoo.methods.baselines.VAE"}, {"ebmzoo.methods.CLEL"}),
        ("ebmzoo fit --pre", {"--prepare"}, {"--config"}),
        ("ebmzoo test --budget ", {"quick", "standard", "paper"}, set()),
        ("ebmzoo sample --gu", {"--guidance"}, set()),
        ("ebmzoo benchmark mn", {"mnist"}, {"digits"}),
        ("ebmzoo configs --copy vae_", {"vae_cifar"}, {"clel_cifar"}),
    ],
)
def test_bash_offers_what_there_is(bash, line, offered, not_offered):
    words = re.split(" ", line)
    done = subprocess.run(["bash", "-c", ASK, "ask", bash, *words], cwd=bash.parent, capture_output=True, text=True)
    found = set(done.stdout.split())
    assert offered <= found, done
    assert not not_offered & found


@pytest.mark.parametrize("shell", SHELLS)
def test_a_script_is_small_and_has_every_command(shell, capsys):
    main(["completion", shell])
    printed = capsys.readouterr().out
    assert len(printed) < 300_000
    assert all(re.search(rf"\b{command}\b", printed) for command in COMMANDS)
    assert "clel_beta01_cifar" in printed


def test_without_shtab_there_is_a_sentence(monkeypatch, capsys):
    monkeypatch.setattr(completion, "find_spec", lambda name: None)
    assert "pip install 'ebmzoo[completion]'" in fails(capsys, "completion", "bash")
