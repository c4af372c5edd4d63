"""Models on the hub, of which a stand-in runs on this machine: written, read again, and refusals in a sentence."""

import socket
import sys

import huggingface_hub.constants as constants
import pytest

from ebmzoo import UserError, load
from ebmzoo.training.checkpoint import LAST, read
from ebmzoo.training.sharing.hub import Address, check_writable, download, upload
from ebmzoo.training.sharing.shared_model import CONFIG, WEIGHTS, write_shared
from support.hub import READER, WRITER, Repository, running_hub
from support.shared import saved_run

FILES = ("a.txt", "b.txt")


def only_here(resolve):
    """`resolve`, for the address of this machine: a test that asks for another one fails, at once."""

    def resolved(host, *args, **kwargs):
        assert host in ("127.0.0.1", b"127.0.0.1"), host
        return resolve(host, *args, **kwargs)

    return resolved


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The running stand-in, a cache of the test's own, and the token of one who may write."""
    with running_hub() as server:
        template = server.address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", server.address)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(socket, "getaddrinfo", only_here(socket.getaddrinfo))
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setenv("HF_TOKEN", WRITER)
        yield server


def repository(hub, name="ada/model", **options):
    hub.repositories[name] = Repository(**options)
    hub.repositories[name].commit({"a.txt": b"a1", "b.txt": b"b1"})
    return hub.repositories[name]


def contents(folder):
    return [(folder / name).read_bytes() for name in FILES]


def test_a_model_is_written_and_read_again(hub, tmp_path):
    method = saved_run(tmp_path / "run", "vae_digits")
    write_shared(tmp_path / "shared", read(tmp_path / "run" / LAST), method)
    (tmp_path / "shared" / "secret.txt").write_text("not to be uploaded")
    page = upload(Address.of("hf:ada/vae"), tmp_path / "shared", (WEIGHTS, CONFIG), private=True)
    assert page == f"{hub.address}/ada/vae"
    made = hub.repositories["ada/vae"]
    assert made.private
    assert made.commits[made.refs["main"]].keys() - {".gitattributes"} == {WEIGHTS, CONFIG}
    found = load("hf:ada/vae")
    assert all(value.equal(method.averages.state_dict()[key]) for key, value in found.averages.state_dict().items())
    upload(Address.of("hf:ada/vae"), tmp_path / "shared", (WEIGHTS, CONFIG))  # once more, into the same
    assert {path for _, path in hub.requests if path.endswith((".ckpt", ".bin"))} == set()


def test_a_revision_is_a_branch_a_tag_or_a_commit(hub):
    made = repository(hub)
    first = made.refs["main"]
    made.refs["v1"] = first
    made.commit({"a.txt": b"a2"})
    assert contents(download(Address("ada/model"), FILES)) == [b"a2", b"b1"]
    for revision in ("v1", first):
        assert contents(download(Address("ada/model", revision), FILES)) == [b"a1", b"b1"]


def test_the_files_are_those_of_one_commit(hub, monkeypatch):
    """Also where the branch moves on between two of them."""
    made = repository(hub)
    finish = type(made).at

    def moving(self, revision):
        found = finish(self, revision)
        if len(hub.requests) == len([1 for _, path in hub.requests if path.endswith("a.txt")]) == 2:
            made.commit({"a.txt": b"a2", "b.txt": b"b2"})
        return found

    monkeypatch.setattr(type(made), "at", moving)
    assert contents(download(Address("ada/model"), FILES)) == [b"a1", b"b1"]


def test_without_the_network_an_earlier_download_is_used(hub, monkeypatch):
    repository(hub)
    download(Address("ada/model"), FILES)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    asked = len(hub.requests)
    assert contents(download(Address("ada/model"), FILES)) == [b"a1", b"b1"]
    with pytest.raises(UserError, match=r"^hf:ada/other was not downloaded before, and the hub cannot be reached$"):
        download(Address("ada/other"), FILES)
    assert len(hub.requests) == asked


def told(function, *args):
    with pytest.raises(UserError) as caught:
        function(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_is_not_there_or_not_open_is_said_in_a_sentence(hub, monkeypatch):
    repository(hub)
    for name in ("ada/private", "ada/secret"):
        repository(hub, name, private=True)
    repository(hub, "ada/gated", gated=True)
    assert contents(download(Address("ada/private"), FILES)) == [b"a1", b"b1"]
    assert told(download, Address("ada/model", "v9"), FILES) == "ada/model has no revision 'v9' on the hub"
    assert "ada/model has not the files a.txt and c.txt" in told(download, Address("ada/model"), ("a.txt", "c.txt"))
    assert "who accept its conditions" in told(download, Address("ada/gated"), FILES)
    for token in (READER, ""):
        monkeypatch.setenv("HF_TOKEN", token)
        for name in ("ada/nothing", "ada/secret"):
            sentence = told(download, Address(name, "main"), ("b.txt", "a.txt"))
            assert sentence.startswith(f"the hub has no model {name}, or it is private and no token")


def test_who_may_not_write_is_told_so(hub, tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("a")
    assert "a model is written to the main branch" in told(check_writable, Address("ada/model", "v1"))
    monkeypatch.setenv("HF_TOKEN", READER)
    assert "the hub refuses the token that is given" in told(upload, Address("ada/model"), tmp_path, ["a.txt"])
    monkeypatch.delenv("HF_TOKEN")
    asked = len(hub.requests)
    assert "cannot be written without a token: log in with" in told(upload, Address("ada/model"), tmp_path, ["a.txt"])
    assert len(hub.requests) == asked
    monkeypatch.setenv("HF_TOKEN", WRITER)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "while HF_HUB_OFFLINE is set" in told(upload, Address("ada/model"), tmp_path, ["a.txt"])


@pytest.mark.parametrize(
    "text", ["hf:", "hf:name", "hf:a/b/c", "hf:a/b@", "hf://a/b", "hf:a/b@x y", "hf:a/ b", "hf:ü/b"]
)
def test_what_is_no_address_says_so(text):
    assert (
        told(Address.of, text)
        == f"{text} is no address of a model on the hub, as hf:user/name or hf:user/name@revision"
    )


@pytest.mark.parametrize("text", ["hf:a/..", "hf:a--b/c--d", "hf:a/b@../../x", "hf:-a/b"])
def test_what_the_hub_does_not_allow_as_a_name_is_no_trace(text, hub):
    assert told(lambda: download(Address.of(text), FILES))


def test_without_the_package_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert told(download, Address("a/b"), FILES) == (
        "hf:a/b needs the package huggingface_hub: pip install 'ebmzoo[hub]'"
    )
