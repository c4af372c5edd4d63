"""What ebmzoo keeps for later commands, in a temporary folder."""

from ebmzoo.data import decoded
from ebmzoo.data.array_cache import VARIABLE
from ebmzoo.data.decode import Frame


def empty_home(tmp_path_factory, monkeypatch):
    """The user's cache, empty; a folder's images are kept however lately it has changed."""
    monkeypatch.delenv(VARIABLE)
    path = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("XDG_CACHE_HOME", str(path))
    monkeypatch.setattr(decoded, "SETTLED", 0.0)
    return path / "ebmzoo"


def counted_decodes(monkeypatch):
    """A list with one element for each image that is decoded."""
    decode, made = Frame.__call__, []

    def counted(self, image):
        made.append(image.size)
        return decode(self, image)

    monkeypatch.setattr(Frame, "__call__", counted)
    return made
