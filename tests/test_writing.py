"""Writing files: whole or not at all, and never through a link."""

import ast
import errno
import os
from pathlib import Path

import pytest

import ebmzoo
from ebmzoo import UserError
from ebmzoo.training.durable import DurableIO
from ebmzoo.writing import UnwritableError, appending, check_links, write_whole

SOURCE = Path(ebmzoo.__file__).parent


@pytest.fixture
def victim(tmp_path):
    """A file that nothing here may change."""
    path = tmp_path / "victim"
    path.write_text("mine")
    yield path
    assert path.read_text() == "mine"


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "run"
    path.mkdir()
    return path


def failing(file):
    file.write(b"half")
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_link_is_replaced_and_not_written_through(victim, folder):
    for name, target in {"x": victim, "dangling": folder / "none"}.items():
        (folder / name).symlink_to(target)
        write_whole(folder / name, "new")
        assert not (folder / name).is_symlink()
        assert (folder / name).read_text() == "new"
    assert {path.name for path in folder.iterdir()} == {"x", "dangling"}


def test_a_second_name_of_a_file_is_replaced(victim, folder):
    (folder / "x").hardlink_to(victim)
    write_whole(folder / "x", b"new")
    assert (folder / "x").read_bytes() == b"new"


def test_checkpoints_are_not_written_through_links(victim, folder):
    names = ("last.ckpt", "last.tmp", "last.tmp.part", "last.ckpt.part", "previous.ckpt.part")
    for name in names:
        (folder / name).symlink_to(victim)
    DurableIO().save_checkpoint({"x": 1}, folder / "last.tmp")
    assert (folder / "last.tmp").read_bytes()[:2] == b"PK"


def test_the_next_checkpoint_removes_what_a_killed_process_left(folder):
    (folder / ".last.tmp.0a1b2c3d.part").write_bytes(bytes(100))
    (folder / ".other.tmp.0a1b2c3d.part").write_bytes(bytes(100))
    DurableIO().save_checkpoint({"x": 1}, folder / "last.tmp")
    assert {path.name for path in folder.iterdir()} == {"last.tmp", ".other.tmp.0a1b2c3d.part"}


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt(), ValueError()])
def test_what_cannot_be_written_leaves_the_folder_as_it_was(there, error, folder):
    path = folder / "x"
    if there:
        path.write_text("old")

    def write(file):
        file.write(b"half")
        raise error

    with pytest.raises(UnwritableError if isinstance(error, OSError) else type(error)) as caught:
        write_whole(path, write)
    assert [each.name for each in folder.iterdir()] == ["x"] * there
    assert not there or path.read_text() == "old"
    if isinstance(error, OSError):
        assert str(caught.value) == f"{path} cannot be written (No space left on device)"
        assert (caught.value.errno, caught.value.strerror) == (errno.ENOSPC, "No space left on device")


def test_what_is_no_file_is_not_replaced(folder):
    os.mkfifo(folder / "pipe")
    (folder / "link").symlink_to("/dev/null")
    (folder / "file").write_text("")
    for path in (folder, folder / "pipe", folder / "link", Path("/dev/null"), folder / "file" / "x"):
        for write in (lambda path: write_whole(path, "x"), lambda path: appending(path).__enter__()):
            with pytest.raises(UnwritableError, match=f"^{path} cannot be written "):
                write(path)
    assert (folder / "link").is_symlink()
    assert (folder / "pipe").is_fifo()


def test_lines_are_appended_to_the_file_alone(victim, folder):
    for text in (b"a\n", b"b\n"):
        with appending(folder / "deep" / "x") as file:
            file.write(text)
    assert (folder / "deep" / "x").read_text() == "a\nb\n"
    (folder / "link").symlink_to(victim)
    (folder / "second").hardlink_to(victim)
    for name in ("link", "second"):
        with pytest.raises(UnwritableError, match=name), appending(folder / name) as file:
            file.write(b"x")


def test_a_link_out_of_a_folder_is_named(tmp_path, folder, victim):
    (folder / "last.ckpt").write_text("")
    (folder / "a" / "b").mkdir(parents=True)
    (folder / "inside").symlink_to("last.ckpt")
    (folder / "a" / "inside").symlink_to("..")
    (folder / "wandb").mkdir()
    (folder / "wandb" / "debug.log").symlink_to(victim)
    check_links(folder, skipped=("wandb",))
    check_links(tmp_path / "none")
    (tmp_path / "other").symlink_to(folder)
    check_links(tmp_path / "other", skipped=("wandb",))
    with pytest.raises(UserError, match=r"wandb/debug\.log is a link to "):
        check_links(folder)
    for name, target in (("a/b/out", victim), ("samples", tmp_path), ("gone", tmp_path / "none"), ("up", "../victim")):
        (folder / name).symlink_to(target)
        with pytest.raises(UserError, match=f"{name} is a link to "):
            check_links(folder, skipped=("wandb",))
        (folder / name).unlink()
    (folder / "wandb" / "debug.log").unlink()
    (folder / "wandb").rmdir()
    (folder / "wandb").symlink_to(tmp_path)
    with pytest.raises(UserError, match="wandb is a link to "):
        check_links(folder, skipped=("wandb",))


WRITES = {"write_text", "write_bytes", "symlink_to", "copyfile", "copy", "copytree", "move", "tofile", "makefile"}
"""Methods and functions that write a file by its name."""


def writes(tree):
    """The calls in a module that open a file for writing by its name, as source."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        constants = [
            each.value for each in (*node.args, *(k.value for k in node.keywords)) if isinstance(each, ast.Constant)
        ]
        modes = [c for c in constants if isinstance(c, str) and set(c) <= set("rwaxbt+") and set(c) & set("wax+")]
        of_shutil = isinstance(node.func, ast.Attribute) and ast.unparse(node.func.value) in ("shutil", "np", "torch")
        if (name == "open" and modes) or (name in WRITES and (of_shutil or name not in ("copy", "move"))):
            yield ast.unparse(node)


def test_no_module_opens_a_file_for_writing_but_the_one_that_follows_no_links():
    assert [*writes(ast.parse("path.open('wb'); open(x, mode='a'); path.write_text('x'); path.open('rb')"))] == [
        "path.open('wb')",
        "open(x, mode='a')",
        "path.write_text('x')",
    ]
    found = {
        path.relative_to(SOURCE).as_posix(): [*writes(ast.parse(path.read_text()))] for path in SOURCE.rglob("*.py")
    }
    assert {place: calls for place, calls in found.items() if calls} == {}
