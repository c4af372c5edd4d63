# ---
# jupyter:
#   jupytext: {formats: "py:percent,ipynb"}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # Train, test and compare two methods on digits
#
# JEM, a classifier whose logits are energies, and a short-run EBM, an energy alone, on scikit-learn's 8×8 digits:
# 1,000 iterations of batch 100 each, minutes on a CPU. `main([...])` is the command `ebmzoo`; in a
# terminal the same words follow it.

# %%
import json
import os
from pathlib import Path

import matplotlib.pyplot as plt

from ebmzoo import load
from ebmzoo.commands.cli import main

QUICK = "EBMZOO_QUICK" in os.environ  # a few iterations, to see that it runs
steps = "2" if QUICK else "1000"
noise = "[{class_path: ebmzoo.data.UniformNoise}]"
few = ["--trainer.limit_val_batches", "0", "--grid_every", "0", "--data.ood", noise] if QUICK else []
runs = {"jem_digits": "runs/jem", "short_run_digits": "runs/short_run"}

# %% [markdown]
# ## Train
#
# The classifier whose features give the scorecard its distances, then the two methods under one budget.

# %%
if not QUICK:
    main(["fit", "--config", "classifier_digits"])
for config, folder in runs.items():
    length = ["--trainer.max_steps", steps, "--trainer.max_epochs", "-1"]
    main(["fit", "--config", config, "--run_dir", folder, *length, *few])

# %% [markdown]
# ## Test
#
# `generation` compares samples with the training images, `ood` scores other images by the energy. Each prints its
# figures with what they depend on, and keeps both in `test/<task>.json`.

# %%
for folder in runs.values():
    budget = "quick" if QUICK else "standard"
    tasks = "ood" if QUICK else "generation,ood"
    main(["test", "--ckpt_path", f"{folder}/last.ckpt", "--tasks", tasks, "--budget", budget])

# %%
for config, folder in runs.items():
    figures = json.loads(Path(folder, "test", "ood.json").read_text())["figures"]
    print(config, {name: round(value, 3) for name, value in figures.items() if name.endswith("auroc_energy")})

# %% [markdown]
# ## Compare
#
# One table, and `compare/compare.html` with pictures, curves and protocols. Figures of different protocols never
# share a column.

# %%
main(["compare", *runs.values()])

# %% [markdown]
# ## Look
#
# A checkpoint is all that is needed to go on: `load` gives the method with its averaged weights.

# %%
figure, axes = plt.subplots(len(runs), 8, figsize=(8, 2.4), layout="constrained")
for row, (config, folder) in zip(axes, runs.items(), strict=True):
    samples = load(f"{folder}/last.ckpt").sample(8, steps=2 if QUICK else None)
    print(config, "NFE", samples.nfe)
    for axis, image in zip(row, samples.images, strict=True):
        axis.imshow(image[0], cmap="gray", vmin=-1, vmax=1)
        axis.axis("off")
figure.savefig("two_methods.png")

# %% [markdown]
# Which differences mean anything? One seed each tells little: `--seed_everything 1` and another `--run_dir` train
# again, and `compare` takes any number of runs. All methods under one budget are `ebmzoo benchmark digits`.
