# ---
# jupyter:
#   jupytext: {formats: "py:percent,ipynb"}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # Detection and restoration with a trained model
#
# `ebmzoo.pretrained` has small trained models of 8×8 digits: no training, no download. One energy answers two
# questions that it was not trained for: is this picture a digit, and what did it look like before it was damaged?
# Seconds on a CPU.

# %%
import os
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from PIL import Image
from torch import Tensor

import ebmzoo
from ebmzoo.data import Digits, Half
from ebmzoo.data.degradations import Masking
from ebmzoo.methods import RestorationSettings

QUICK = "EBMZOO_QUICK" in os.environ  # fewer images and steps, to see that it runs
torch.manual_seed(0)
method = ebmzoo.pretrained("clel_digits")
digits = Digits().test_set.float()[: 20 if QUICK else 297]

# %% [markdown]
# ## One's own picture
#
# Any picture will do: it is made grey and 8×8. If there is no `mine.png` here, a smiling face is drawn instead.


# %%
def picture(path: Path) -> Tensor:
    """The file as `(1, 1, 8, 8)` in [-1, 1], white on black as the digits are."""
    grey = Image.open(path).convert("L").resize((8, 8), Image.Resampling.BOX)
    return torch.from_numpy(np.array(grey)).float().div(127.5).sub(1).view(1, 1, 8, 8)


face = """
. . # # # # . .
. # . . . . # .
# . # . . # . #
# . . . . . . #
# . # . . # . #
# . . # # . . #
. # . . . . # .
. . # # # # . .
"""
if not Path("mine.png").exists():
    rows = [[255 * (cell == "#") for cell in row.split()] for row in face.strip().splitlines()]
    Image.fromarray(np.array(rows, dtype=np.uint8)).save("mine.png")
mine = picture(Path("mine.png"))

# %% [markdown]
# ## Is it a digit?
#
# The out-of-distribution score is higher for what is farther from the training images; for a decision one needs a
# threshold, here the score that 95 % of the test digits stay below.

# %%
known = method.ood_score(digits)
threshold = known.quantile(0.95)
noise, black = torch.rand(1, 1, 8, 8) * 2 - 1, -torch.ones(1, 1, 8, 8)
others = {"mine.png": mine, "noise": noise, "a digit upside down": digits[:1].flip(2), "black": black}
print(f"test digits: {known.median():.3f} (median), threshold {threshold:.3f}")
for name, image in others.items():
    score = float(method.ood_score(image))
    verdict = "not a digit" if score > threshold else "like a digit"
    share = float((known < score).float().mean())
    print(f"{name}: {score:.3f}, {verdict}, farther out than {share:.0%} of the test digits")

# %% [markdown]
# One picture proves nothing: the rates over whole sets are the task `ood` of `ebmzoo test`, and an upside-down 0 *is*
# a digit.

# %% [markdown]
# ## What was behind it?
#
# The lower half is hidden. `restored` descends E(x) + |A x − y|²/2σ², with y the visible part and A the mask: the
# data term keeps what is seen, and the energy fills in the rest. `ebmzoo restore` does this with files, for
# super-resolution, colour, blur and noise as well.

# %%
images = torch.cat([digits[:5], mine])
operator = Masking(Half())
y = operator(images)
steps = RestorationSettings(steps=2 if QUICK else None)
(*_, last) = method.restored(y, operator, steps, generator=torch.Generator().manual_seed(0))
error = (last.states[-1].clamp(-1, 1) - images).square().mean((1, 2, 3))
blank = (operator.pinv(y) - images).square().mean((1, 2, 3))
print("mean squared error of the digits, before and after:", float(blank[:5].mean()), float(error[:5].mean()))
print("of mine.png:", float(blank[5]), float(error[5]))

# %%
figure, axes = plt.subplots(3, len(images), figsize=(7, 3.6), layout="constrained")
for row, batch, name in zip(axes, (images, y, last.states[-1]), ("picture", "seen", "restored"), strict=True):
    row[0].set_ylabel(name)
    for axis, image in zip(row, batch, strict=True):
        axis.imshow(image[0], cmap="gray", vmin=-1, vmax=1)
        axis.set(xticks=[], yticks=[])
figure.savefig("restored.png")

# %% [markdown]
# ![five digits and a face: the picture, its visible half, and the restoration](../pictures/notebook_restored.png)
#
# The model has seen digits alone, and makes a digit's lower half for anything.
