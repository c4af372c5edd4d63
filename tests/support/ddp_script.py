"""One process of a two-process run: `torchrun --nproc_per_node 2 ddp_script.py FOLDER METHOD TASK`; see test_ddp.py."""

import sys
from pathlib import Path

import torch

from ebmzoo.methods import LIEBMElbo
from ebmzoo.training.best_checkpoints import BestCheckpoints, Selection
from ebmzoo.training.checkpoint import LastCheckpoint
from support.clel import clel
from support.marginal import igebm
from support.tiny import TinyData, Watch, dual_mcmc, jem, liebm, stage, trainer

METHODS = {
    "liebm": lambda: liebm(inference=True, elbo=LIEBMElbo(), encoder_stage=stage(epochs=1)),
    "dual_mcmc": dual_mcmc,
    "clel": clel,
    "igebm": lambda: igebm(replay_size=10),
    "jem": lambda: jem(start="class_gaussians"),
}


def alike(folder: Path, name: str) -> None:
    """Save the images, latents and weights of each process."""
    torch.manual_seed(0)
    method = METHODS[name]()
    seen, latents = [], []
    method.generator.register_forward_pre_hook(lambda _, args: latents.append(args[0].detach().clone()))
    iterate = type(method).iterate

    def watched(self, images, labels):
        seen.append(images.clone())
        return iterate(self, images, labels)

    type(method).iterate = watched
    steps = []
    fit = trainer(
        folder,
        strategy="ddp",
        devices=2,
        max_epochs=3,
        callbacks=[Watch(lambda t, m: steps.append(t.global_step))],
    )
    fit.fit(method, TinyData(n=32, batch_size=4))
    result = {"weights": method.state_dict(), "seen": torch.cat(seen), "steps": steps, "latents": torch.cat(latents)}
    torch.save(result, folder / f"rank{fit.global_rank}.pt")


def resumed(folder: Path, name: str) -> None:
    """Save the state of each process after a run of 11 iterations, and after one that is interrupted at 3, 4 and 7."""
    found = {}
    for run, cuts in {"whole": [11], "cut": [3, 4, 7, 11]}.items():
        last = None
        for steps in cuts:
            torch.manual_seed(0)
            method = METHODS[name]()
            torch.manual_seed(5 if last is None else 99)
            keep = LastCheckpoint(folder / run, "model: null", every_n_steps=100)
            limits = {"max_steps": steps, "max_epochs": -1, "enable_checkpointing": True}
            fit = trainer(folder, strategy="ddp", devices=2, callbacks=[keep], **limits)
            fit.fit(method, TinyData(n=32, batch_size=4, flip=True), ckpt_path=last, weights_only=True)
            last = folder / run / "last.ckpt"
        found[run] = {
            "state": method.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in fit.optimizers],
            "random": torch.get_rng_state(),
        }
    torch.save(found, folder / f"rank{fit.global_rank}.pt")


def scored(folder: Path, name: str) -> None:
    """Save the state of each process after a run without scores of samples, and after one with them."""
    found = {}
    for every in (0, 2):
        torch.manual_seed(0)
        method = METHODS[name]()
        best = BestCheckpoints(Selection("fd_pixels", every, n=5), folder / f"every{every}", [])
        keep = LastCheckpoint(folder / f"every{every}", "model: null")
        limits = {"max_steps": 6, "max_epochs": -1, "enable_checkpointing": True}
        fit = trainer(folder, strategy="ddp", devices=2, callbacks=[best, keep], **limits)
        fit.fit(method, TinyData(n=32, batch_size=4, flip=True))
        state = {"state": method.state_dict(), "random": torch.get_rng_state()}
        found[every] = {"trained": state, "kept": [kept.step for kept in best.kept]}
    torch.save(found, folder / f"rank{fit.global_rank}.pt")


if __name__ == "__main__":
    {"alike": alike, "resumed": resumed, "scored": scored}[sys.argv[3]](Path(sys.argv[1]), sys.argv[2])
