"""One process of a two-process run: `torchrun --nproc_per_node 2 ddp_script.py FOLDER METHOD`; see test_ddp.py."""

import sys
from pathlib import Path

import torch

from ebmzoo.methods import Elbo
from tiny import TinyData, Watch, dual_mcmc, liebm, stage, trainer

METHODS = {
    "liebm": lambda: liebm(inference=True, elbo=Elbo(), encoder_stage=stage(epochs=1)),
    "dual_mcmc": dual_mcmc,
}


def main(folder: Path, name: str) -> None:
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
    told = {"weights": method.state_dict(), "seen": torch.cat(seen), "steps": steps, "latents": torch.cat(latents)}
    torch.save(told, folder / f"rank{fit.global_rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
