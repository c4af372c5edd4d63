"""Configurations of the project at a small size."""

from support.paths import CONFIGS

FOLDER = CONFIGS


SMALL = {"width": 16, "hidden": 16, "out_features": 16, "latent": 4, "divisors": None}


SMALL |= {"size": 8, "steps": 2, "blocks": [1, 1], "batch_size": 8}


SMALL |= {"latent_steps": 2, "image_steps": 2, "hot": 2, "last": 2, "warmup": 1}


RECOVERY = {"multiples": [1, 1, 1], "depth": 1, "embedding": 16, "classes": 4, "attention": [1]}
"""Additional settings of CDRL's and DRL's networks, if present; the number of classes is that of the tiny data."""


MANY = ("RecoveryResNet", "PlaneEnergy", "UNet", "PlaneInitializer", "UNetDenoiser")


def shrink(node, small=SMALL):
    """Shrink widths, sizes and chain lengths at any depth of a config; 0 classes stay 0."""
    if isinstance(node, list):
        return [shrink(x, small) for x in node]
    if not isinstance(node, dict):
        return node
    if node.get("class_path", "").rpartition(".")[2] in MANY:
        small = small | RECOVERY
    if node.get("class_path", "").endswith("WideResNet"):
        small = small | {"depth": 10, "widen": 1, "classes": 4}
    if node.get("class_path", "").endswith("KLAutoEncoder"):
        small = small | {"multiples": [1], "depth": 1}
    return {k: small[k] if k in small and v != 0 else shrink(v, small) for k, v in node.items()}
