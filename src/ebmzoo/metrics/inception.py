"""Inception-v3, whose features define FID, KID and the Inception Score."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from ebmzoo.data.downloads import not_stalling
from ebmzoo.errors import UserError
from ebmzoo.metrics.extractors import FeatureExtractor
from ebmzoo.networks.weights import sha256

INCEPTION_URL = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
)
INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"


class InceptionV3(FeatureExtractor):
    """The Inception-v3 of FID (Heusel et al., 2017): 2048 pooled features and 1008 logits without bias.

    They are computed as in torchmetrics. Images are first rounded to 8 bits, as stored images are, and grey images are
    repeated to three channels.

    >>> inception = InceptionV3()
    >>> inception.fd_name, inception.kd_name, inception.fingerprint
    ('fid', 'kid', '6726825d0af5')

    Args:
        weights: The file `weights-inception-2015-12-05-6726825d.pth` (pytorch-fid's `pt_inception-…` is the same). By
            default it is looked up in torch hub's `checkpoints` folder and downloaded there if it is missing.

    Raises:
        UserError: On first use, if the weights are missing or damaged, or the package torch-fidelity is missing.
    """

    reuse = True

    def __init__(self, weights: str | None = None) -> None:
        super().__init__()
        self.weights = weights
        self.net: nn.Module | None = None

    @property
    def name(self) -> str:
        return "inception"

    @property
    def fd_name(self) -> str:
        return "fid"

    @property
    def kd_name(self) -> str:
        return "kid"

    @property
    def is_name(self) -> str:
        return "is"

    def _path(self) -> Path:
        if self.weights is not None:
            return Path(self.weights).expanduser()
        standard = Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION_URL.rpartition("/")[2]
        twin = standard.with_name(standard.name.replace("weights-", "pt_"))
        return twin if twin.is_file() and not standard.is_file() else standard

    def available(self) -> str | None:
        """See `FeatureExtractor.available`; downloads missing weights (91 MiB) unless `weights` names a file."""
        if self.net is not None:
            return None
        if find_spec("torch_fidelity") is None:
            return "Inception features need torch-fidelity: run `pip install 'ebmzoo[all]'`"
        path = self._path()
        if not path.is_file() and self.weights is not None:
            return f"no Inception weights at {path}: download {INCEPTION_URL} and put the file there"
        if not path.is_file():
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                with not_stalling():
                    torch.hub.download_url_to_file(INCEPTION_URL, str(path), INCEPTION_SHA256, progress=False)
            except (OSError, RuntimeError) as error:
                return (
                    f"the Inception weights could not be downloaded ({error}): on a machine with a network, fetch "
                    f"{INCEPTION_URL} and put it at {path}"
                )
        if sha256(path) != INCEPTION_SHA256:
            return f"{path} is damaged or not FID's Inception: download {INCEPTION_URL} and replace it"
        return None

    @property
    def fingerprint(self) -> str:
        return INCEPTION_SHA256[:12]

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        if self.net is None:
            if problem := self.available():
                raise UserError(problem)
            from torchmetrics.image.fid import NoTrainInceptionV3

            self.net = NoTrainInceptionV3("inception-v3-compat", ["2048"], str(self._path()))
        if images.shape[1] not in (1, 3):
            raise UserError(f"Inception needs images of 1 or 3 channels, found {images.shape[1]}")
        pixels = ((images.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
        net = self.net.to(images.device)
        features = net(pixels.expand(-1, 3, -1, -1))
        return features, features @ net.get_parameter("fc.weight").T
