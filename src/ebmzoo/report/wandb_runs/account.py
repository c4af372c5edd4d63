"""Whether this machine has a W&B account, determined without importing wandb, a prompt or network access."""

from __future__ import annotations

import netrc
import os
import re
from urllib.parse import urlsplit

HOW = "`wandb login` explains how to get a key and stores it; or set WANDB_API_KEY"
"""How to get a key."""
HOSTS = ("api.forge.coreweave.com", "api.wandb.ai")
"""The hosts of W&B's own service, since version 0.31 and before; a key stored for either is valid for both."""

RUN_ID = re.compile(r"[\w-]{1,64}", re.ASCII)
"""What the name of a run is to W&B, which makes a folder of it."""


def has_key() -> bool:
    """Whether a W&B key is configured, in the environment or in ~/.netrc."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", f"https://{HOSTS[0]}")).netloc
    try:
        stored = netrc.netrc(os.environ.get("NETRC"))
    except (OSError, netrc.NetrcParseError):
        return False
    return any(stored.authenticators(name) is not None for name in (HOSTS if host in HOSTS else (host,)))
