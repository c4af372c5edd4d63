"""Shared models on the hub of Hugging Face, through `huggingface_hub`, which the extra `hub` installs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from ebmzoo.errors import UserError

SCHEME = "hf:"
_ADDRESS = re.compile(r"hf:(?P<repository>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?", re.ASCII)
_LOGIN = "log in with `hf auth login`, or set HF_TOKEN"


@dataclass(frozen=True)
class Address:
    """The address of a model on the hub, `hf:user/name` or `hf:user/name@revision`.

    >>> Address.of("hf:ada/cdrl_digits@v1")
    Address(repository='ada/cdrl_digits', revision='v1')

    Args:
        repository: The model, `user/name`.
        revision: A branch, a tag or a commit; None is the newest state of the main branch.
    """

    repository: str
    revision: str | None = None

    @classmethod
    def of(cls, text: str) -> Address:
        """The address that a text states.

        Raises:
            UserError: It is none.
        """
        found = _ADDRESS.fullmatch(text)
        if found is None:
            raise UserError(f"{text} is no address of a model on the hub, as hf:user/name or hf:user/name@revision")
        return cls(found["repository"], found["revision"])

    def __str__(self) -> str:
        return f"{SCHEME}{self.repository}" + (f"@{self.revision}" if self.revision else "")


def is_on_hub(text: object) -> bool:
    """Whether a text is written as an address of the hub."""
    return isinstance(text, str) and text.startswith(SCHEME)


def download(address: Address, files: Sequence[str]) -> Path:
    """The folder with these files of a model, all of one commit; without the network, those of an earlier download.

    Raises:
        UserError: The package is missing, there is no such model, revision or file, it may not be read, or the hub
            cannot be reached.
    """
    with _errors(address, files):
        from huggingface_hub import hf_hub_download

        revision, folder = address.revision, Path()
        for name in files:
            folder = Path(hf_hub_download(address.repository, name, revision=revision)).parent
            revision = folder.name  # the commit of the first, should the branch move on in between
    return folder


def check_writable(address: Address) -> None:
    """Check, before any work, that a model can be written to the hub as far as this machine knows.

    Raises:
        UserError: The package is missing, the address has a revision, or there is no token.
    """
    if address.revision is not None:
        raise UserError(f"{address} names a revision; a model is written to the main branch, as {SCHEME}user/name")
    with _errors(address):
        from huggingface_hub import get_token

        if get_token() is None:
            raise UserError(f"{address} cannot be written without a token: {_LOGIN}")


def upload(address: Address, folder: Path, files: Sequence[str], private: bool = False) -> str:
    """Write these files of a folder into a model of the hub, made if there is none, in one commit; returns its page.

    Raises:
        UserError: As of `check_writable`; or the token may not write, or the hub cannot be reached.
    """
    check_writable(address)
    with _errors(address):
        from huggingface_hub import HfApi

        api = HfApi()
        page = api.create_repo(address.repository, private=private or None, exist_ok=True)
        api.upload_folder(
            repo_id=address.repository,
            folder_path=folder,
            allow_patterns=list(files),
            commit_message="Share a model of ebmzoo",
        )
    return str(page)


@contextmanager
def _errors(address: Address, files: Sequence[str] = ()) -> Iterator[None]:
    """Within the block, the errors of `huggingface_hub` become one sentence."""
    if find_spec("huggingface_hub") is None:
        raise UserError(f"{address} needs the package huggingface_hub: pip install 'ebmzoo[hub]'")
    from huggingface_hub import errors

    try:
        yield
    except UserError:
        raise
    except errors.GatedRepoError as error:
        raise UserError(f"{address} is open to those only who accept its conditions on its page on the hub") from error
    except errors.RepositoryNotFoundError as error:
        hidden = f"or it is private and no token that may read it is given ({_LOGIN})"
        raise UserError(f"the hub has no model {address.repository}, {hidden}") from error
    except errors.RevisionNotFoundError as error:
        raise UserError(f"{address.repository} has no revision '{address.revision}' on the hub") from error
    except errors.LocalEntryNotFoundError as error:
        raise UserError(f"{address} was not downloaded before, and the hub cannot be reached") from error
    except errors.EntryNotFoundError as error:
        raise UserError(f"{address} has not the files {' and '.join(files)}, so it is no shared model") from error
    except errors.OfflineModeIsEnabled as error:
        raise UserError(f"{address} cannot be written while HF_HUB_OFFLINE is set") from error
    except Exception as error:  # those of the network have no common base class in all releases
        answer = getattr(error, "response", None)
        status = getattr(answer, "status_code", None)
        if status in (401, 403):
            raise UserError(f"{address}: the hub refuses the token that is given; {_LOGIN}") from error
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{address}: the hub cannot be used ({reason:.160})") from error
