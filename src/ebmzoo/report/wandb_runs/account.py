"""Whether this machine has a W&B account, found without importing wandb, asking anyone or sending anything."""

from __future__ import annotations

import netrc
import os
from urllib.parse import urlsplit

HOW = "`wandb login` says where to get a key, and keeps it; or set WANDB_API_KEY"
"""How to get a key."""
HOSTS = ("api.forge.coreweave.com", "api.wandb.ai")
"""Where W&B's own service is, since its version 0.31 and before; a key that is kept for either is one for both."""


def has_key() -> bool:
    """Whether a W&B key is configured, in the environment or in ~/.netrc."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", f"https://{HOSTS[0]}")).netloc
    try:
        kept = netrc.netrc(os.environ.get("NETRC"))
    except (OSError, netrc.NetrcParseError):
        return False
    return any(kept.authenticators(name) is not None for name in (HOSTS if host in HOSTS else (host,)))
