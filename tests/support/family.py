"""Every method in each setting with a different iteration, small, for tests over the whole family."""

from ebmzoo.methods import DenoisingEBMLearning, DualMCMCLosses, LIEBMElbo
from ebmzoo.sampling import Langevin
from support.clel import clel
from support.clel import without_latent as clel_without_latent
from support.marginal import igebm, improved_cd, short_run
from support.tiny import (
    cdrl,
    coopnets,
    denoising_ebm,
    drl,
    dual_mcmc,
    energy_matching,
    equilibrium_matching,
    hat_ebm,
    jem,
    liebm,
    mdsm,
    score_network,
    stage,
    triangle,
    vae,
    without_latent,
)

JEM_PLUS = Langevin(steps=2, step_size=1.0, noise=0.0, clip=1.0, bounds=(-1, 1))

FAMILY = {
    "LIEBM, no latent": without_latent,
    "LIEBM, encoder": liebm,
    "LIEBM, encoder jointly": lambda: liebm(encoder_stage=stage(jointly=True)),
    "LIEBM, EJM": lambda: liebm(chain="joint"),
    "LIEBM, ERM": lambda: liebm(inference=True, elbo=LIEBMElbo()),
    "LIEBM, q alone": lambda: liebm(inference=True, elbo=LIEBMElbo(pixels=False)),
    "CLEL": clel,
    "CLEL, no latent": clel_without_latent,
    "CDRL": lambda: cdrl(classes=4),
    "CDRL, no initializer": lambda: cdrl(initializer=None),
    "Dual-MCMC": dual_mcmc,
    "Dual-MCMC, official": lambda: dual_mcmc(teaching=DualMCMCLosses.official()),
    "JEM": jem,
    "JEM, class chains": lambda: jem(class_chains=True, joint_weight=1.0, split_batch=False),
    "JEM++": lambda: jem(sampler=JEM_PLUS, start="class_gaussians"),
    "Denoising-EBM": lambda: denoising_ebm(learning=DenoisingEBMLearning(1, warmup=0)),
    "Energy Matching": energy_matching,
    "EqM-E": equilibrium_matching,
    "EqM-E, l2": lambda: equilibrium_matching("l2"),
    "CoopNets": coopnets,
    "Divergence Triangle": triangle,
    "VAE": vae,
    "Hat EBM": hat_ebm,
    "DRL": drl,
    "IGEBM": igebm,
    "Improved CD": lambda: improved_cd(neighbours=1),  # so that the entropy is learnt from the second batch on
    "Short-run EBM": short_run,
    "MDSM": mdsm,
    "score network": score_network,
}
