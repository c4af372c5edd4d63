"""Downloads: they end when nothing arrives, and go nowhere that a stranger's config or folder chooses."""

import socket
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from ebmzoo import UserError
from ebmzoo.data import downloads
from ebmzoo.data.downloads import downloads_confined, not_stalling
from ebmzoo.data.torchvision_sets import fetch


@contextmanager
def silent_server():
    """The address of a server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}/x.tar.gz"


def test_a_download_from_which_nothing_comes_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(downloads, "STALL", 0.2)
    before = socket.getdefaulttimeout()
    with silent_server() as address:
        with pytest.raises((TimeoutError, URLError)), not_stalling():
            urlopen(address)
        with pytest.raises(UserError, match=r"x could not be downloaded.*timed out.*put x\.tar\.gz in"):
            fetch("x", lambda download: urlopen(address), tmp_path, "x.tar.gz", download=True)
    assert socket.getdefaulttimeout() == before


def wanted(place, download=True):
    """Whether `fetch` lets a data set be downloaded into a folder, and its error if the files are missing."""
    asked = []

    def missing(download):
        asked.append(download)
        raise RuntimeError("not found")

    with pytest.raises(UserError) as caught:
        fetch("x", missing, Path(place), "x.tar.gz", download=download)
    return asked[0], str(caught.value)


def test_a_strangers_config_downloads_only_below_the_working_folder(tmp_path, monkeypatch):
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    (tmp_path / "work" / "out").symlink_to(tmp_path)
    outside = (tmp_path, "..", "datasets/../..", "~", "out/datasets")
    with downloads_confined():
        for place in outside:
            allowed, told = wanted(place)
            assert not allowed, place
            assert "only into folders below the working folder" in told
        assert wanted("datasets")[0]
    for place in (*outside, "datasets"):
        assert wanted(place)[0], place
        assert not wanted(place, download=False)[0]


def test_confinement_is_not_lifted_within_itself():
    with downloads_confined(), downloads_confined(False):
        assert not wanted("/elsewhere")[0]


def test_nothing_is_downloaded_through_a_link(tmp_path):
    (tmp_path / "victim").write_text("mine")
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets" / "x.tar.gz").symlink_to(tmp_path / "gone")
    allowed, told = wanted(tmp_path / "datasets")
    assert not allowed
    assert "with a link, x.tar.gz" in told
