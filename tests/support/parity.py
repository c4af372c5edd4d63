"""The rule that gives the authors' networks their weights in the parity files, and those files themselves."""

import json
import zlib
from pathlib import Path

import numpy as np
import torch

FOLDER = Path(__file__).parent.parent / "data" / "parity"
NORMALISATION = {"mean": (0.4914, 0.4822, 0.4465), "std": (0.2470, 0.2435, 0.2616)}


def keys(network):
    """`(name, shape)` of each tensor in the state dict that the authors' network has, in its order."""
    return [(name, tuple(shape)) for name, shape, _ in json.loads((FOLDER / f"{network}.keys.json").read_text())]


def outputs(network):
    """What the authors' network computes at the weights of `state`, with the inputs, in float64."""
    return {name: torch.as_tensor(value) for name, value in np.load(FOLDER / f"{network}.npz").items()}


def draw(name, shape):
    return np.random.RandomState(zlib.crc32(name.encode()) & 0x7FFFFFFF).standard_normal(shape)


def weight(name, shape):
    """The value of one tensor by its name alone; the vectors of spectral norm are `power`'s."""
    leaf = name.rpartition(".")[2]
    if leaf == "num_batches_tracked":
        return np.zeros(shape, dtype=np.int64)
    if leaf in NORMALISATION:
        return np.asarray(NORMALISATION[leaf])
    if leaf == "running_mean":
        return 0.1 * draw(name, shape)
    if leaf == "running_var":
        return 1 + 0.5 * np.tanh(draw(name, shape))
    if len(shape) <= 1 or leaf == "g":
        return 0.1 * draw(name, shape) + (leaf in ("weight", "g", "gamma"))
    value = draw(name, shape)
    return value / np.sqrt(value[0].size)


def power(stored, name):
    """u and v after 50 power iterations on the stored weight, from u drawn by its own name."""
    matrix = stored.reshape(len(stored), -1)
    u = draw(name, (len(matrix),))
    u /= np.linalg.norm(u)
    for _ in range(50):
        v = matrix.T @ u
        v /= np.linalg.norm(v)
        u = matrix @ v
        u /= np.linalg.norm(u)
    return u, v


def state(network):
    """The state dict of the authors' network under the authors' names, float64."""
    found = {name: weight(name, shape) for name, shape in keys(network)}
    for name in [name for name in found if name.endswith("_u")]:
        stored = name.removesuffix("u") + "orig" if name.endswith("weight_u") else name.replace("0._u", "original")
        found[name], found[name.removesuffix("u") + "v"] = power(found[stored], name)
    return {name: torch.as_tensor(value) for name, value in found.items()}
