"""Any configuration of the project made small."""

from support.paths import CONFIGS

FOLDER = CONFIGS


SMALL = {"width": 16, "hidden": 16, "out_features": 16, "latent": 4}


SMALL |= {"size": 8, "steps": 2, "blocks": [1, 1], "batch_size": 8}


SMALL |= {"latent_steps": 2, "image_steps": 2, "hot": 2, "last": 2, "warmup": 1}


RECOVERY = {"multiples": [1, 1, 1], "depth": 1, "embedding": 16, "classes": 4, "attention": [1]}
"""What CDRL's and DRL's networks have besides, where they have it; the classes are the tiny data's."""


MANY = ("RecoveryResNet", "PlaneEnergy", "UNet", "PlaneInitializer", "UNetDenoiser")


def shrink(node, small=SMALL):
    """Widths, sizes and chain lengths made small, wherever they stand; no classes stay none."""
    if isinstance(node, list):
        return [shrink(x, small) for x in node]
    if not isinstance(node, dict):
        return node
    if node.get("class_path", "").rpartition(".")[2] in MANY:
        small = small | RECOVERY
    if node.get("class_path", "").endswith("KLAutoEncoder"):
        small = small | {"multiples": [1], "depth": 1}
    return {k: small[k] if k in small and v != 0 else shrink(v, small) for k, v in node.items()}
