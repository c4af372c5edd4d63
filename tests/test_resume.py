"""Cut off and gone on with is the same as never cut off, to the last bit, in every setting."""

import pytest
import torch
from torch.optim.lr_scheduler import ExponentialLR

from ebmzoo.methods import Elbo, Learning, Teaching
from ebmzoo.training.checkpoint import LastCheckpoint
from tiny import (
    TinyData,
    cdrl,
    coopnets,
    denoising_ebm,
    drl,
    dual_mcmc,
    hat_ebm,
    liebm,
    mdsm,
    score_network,
    stage,
    trainer,
    triangle,
    vae,
    without_latent,
)

SETTINGS = {
    "no latent": without_latent,
    "EM": lambda: liebm(lr_schedule=lambda o: ExponentialLR(o, 0.9)),
    "EJM": lambda: liebm(chain="joint"),
    "ERM": lambda: liebm(inference=True, elbo=Elbo()),
    "EM with inference": lambda: liebm(inference=True, elbo=Elbo(pixels=False)),
    "encoder jointly": lambda: liebm(encoder_stage=stage(jointly=True)),
    "Dual-MCMC": lambda: dual_mcmc(lr_schedule=lambda o: ExponentialLR(o, 0.9)),
    "Dual-MCMC, official": lambda: dual_mcmc(teaching=Teaching.official()),
    "CoopNets": coopnets,
    "Divergence Triangle": triangle,
    "VAE": vae,
    "Hat EBM": hat_ebm,
    "CDRL": lambda: cdrl(classes=4, energy_schedule=lambda o: ExponentialLR(o, 0.9)),
    "DRL": drl,
    "Denoising-EBM": lambda: denoising_ebm(learning=Learning(1, warmup=5), lr_schedule=lambda o: ExponentialLR(o, 0.9)),
    "MDSM": mdsm,
    "score network": score_network,
}


def train(folder, make, ckpt_path=None, **limits):
    """Four batches an epoch, validation after each epoch, a checkpoint every third batch."""
    torch.manual_seed(1)
    method = make()
    torch.manual_seed(7)
    keep = LastCheckpoint(folder, "model: null", every_n_steps=3)
    data = TinyData(flip=True)
    fit = trainer(folder, callbacks=[keep], enable_checkpointing=True, limit_val_batches=2, **limits)
    fit.fit(method, data, ckpt_path=ckpt_path, weights_only=True)
    return torch.load(folder / "last.ckpt", weights_only=True)


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("cut", [3, 4, 7])
def test_resumed_is_never_cut(setting, cut, tmp_path):
    (tmp_path / "cut").mkdir()
    make = SETTINGS[setting]
    whole = train(tmp_path, make, max_epochs=3)
    train(tmp_path / "cut", make, max_epochs=3, max_steps=cut)
    torch.manual_seed(99)  # whatever was drawn in between must not matter
    resumed = train(tmp_path / "cut", make, tmp_path / "cut" / "last.ckpt", max_epochs=3)
    assert resumed["global_step"] == whole["global_step"] == 12
    for name, value in whole["state_dict"].items():
        assert torch.equal(value, resumed["state_dict"][name]), name
    for one, two in zip(whole["optimizer_states"], resumed["optimizer_states"], strict=True):
        for key, state in one["state"].items():
            assert all(torch.equal(state[k], two["state"][key][k]) for k in state)
    assert [s["_last_lr"] for s in whole["lr_schedulers"]] == [s["_last_lr"] for s in resumed["lr_schedulers"]]
