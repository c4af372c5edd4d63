"""Laws of the ViT and of masked auto-encoding, and its two phases alone, after a break, and within LIEBM."""

import math
from itertools import pairwise

import pytest
import torch

from ebmzoo.errors import UserError
from ebmzoo.methods.base.encoder_stage import EncoderStage
from ebmzoo.networks import ViTEncoder
from ebmzoo.networks.vit import grid_positions, patchify, pick, unpatchify
from ebmzoo.ssrl import MAE, Pretraining, nt_xent
from ebmzoo.ssrl.mae import masked_error, random_split
from ebmzoo.training.checkpoint import LastCheckpoint
from support.tiny import TinyData, Watch, encoder, liebm, trainer

TINY = {"in_channels": 1, "size": 8, "patch": 2, "width": 16, "depth": 1, "heads": 2, "latent": 8, "hidden": 16}


def vit(**changes):
    torch.manual_seed(0)
    return ViTEncoder(**TINY | {"mean": None, "std": None} | changes)


def mae(**changes):
    return MAE(**{"width": 8, "depth": 1, "heads": 2} | changes)


def attached(**changes):
    h, objective = vit(), mae(**changes)
    objective.attach(h)
    return h, objective


def images(n=8):
    return TinyData(n=n).load()[0].float()


@pytest.mark.parametrize(("channels", "size", "patch"), [(1, 8, 2), (3, 12, 4), (3, 4, 4), (2, 4, 1)])
def test_unpatchify_inverts_patchify(channels, size, patch):
    x = torch.arange(2.0 * channels * size**2).view(2, channels, size, size)
    patches = patchify(x, patch)
    assert patches.shape == (2, (size // patch) ** 2, channels * patch**2)
    assert torch.equal(unpatchify(patches, patch, channels), x)


def test_patches_are_tiles_row_by_row():
    x = torch.arange(2.0 * 3 * 36).view(2, 3, 6, 6)
    patches = patchify(x, 2)
    for k in range(9):
        top, left = 2 * (k // 3), 2 * (k % 3)
        tile = x[:, :, top : top + 2, left : left + 2]
        assert torch.equal(patches[:, k].sort(1).values, tile.flatten(1).sort(1).values)


def test_positions_tell_all_patches_apart():
    positions = grid_positions(4, 16)
    assert positions.shape == (16, 16)
    gram = positions @ positions.T
    torch.testing.assert_close(gram.diagonal(), torch.full((16,), 8.0))  # 2 axes × 4 pairs sin² + cos²
    assert (gram - 8 * torch.eye(16)).max() < 8 - 1e-3
    rows = positions[:, :8].view(4, 4, 8)
    assert torch.equal(rows, rows[:, :1].expand_as(rows))
    assert torch.equal(positions.view(4, 4, 16)[2, :, 8:], positions.view(4, 4, 16)[0, :, 8:])


def test_encoder_size_and_shapes():
    h = ViTEncoder(mean=None, std=None, depth=2)
    block = 12 * 192**2 + 13 * 192
    trunk = 48 * 192 + 192 + 2 * block + 2 * 192
    head = 192 * 1024 + 1024 + 2 * 1024 + 1024 * 64 + 64
    assert sum(p.numel() for p in h.parameters()) == trunk + head
    x = torch.rand(3, 3, 32, 32) * 2 - 1
    assert h.features(x).shape == (3, h.feature_dim) == (3, 192)
    z = h(x)
    assert z.shape == (3, h.latent) == (3, 64)
    torch.testing.assert_close(z.norm(dim=1), torch.ones(3))


def test_encoder_normalises_the_image():
    x = images()
    plain, normal = vit(), vit(mean=(0.25,), std=(0.5,))
    torch.testing.assert_close(normal.patches(x), (plain.patches(x) - 0.25) / 0.5)
    torch.testing.assert_close(plain.patches(x), patchify((x + 1) / 2, 2))


def test_hidden_patches_do_not_reach_the_tokens():
    h = vit().double().eval()
    patches = h.patches(images().double())
    visible, hidden = random_split(len(patches), 16, 12)
    tokens = h.tokens(patches, visible)
    assert tokens.shape == (8, 4, 16)
    spoilt = patches.scatter(1, hidden[..., None].expand(-1, -1, 4), 9.0)
    torch.testing.assert_close(h.tokens(spoilt, visible), tokens, rtol=0, atol=0)
    everything = torch.arange(16).expand(8, -1)
    torch.testing.assert_close(h.tokens(patches, everything), h.tokens(patches))
    # A set of tokens: their order does not matter, their places in the image do.
    torch.testing.assert_close(h.tokens(patches, visible.flip(1)), tokens.flip(1))
    assert (h.tokens(patches.roll(1, 1)).mean(1) - h.tokens(patches).mean(1)).abs().max() > 1e-3


def test_split_is_a_partition_of_exact_size_and_fair():
    torch.manual_seed(0)
    visible, hidden = random_split(4000, 16, 12)
    assert (visible.shape, hidden.shape) == ((4000, 4), (4000, 12))
    assert torch.equal(torch.cat([visible, hidden], 1).sort(1).values, torch.arange(16).expand(4000, -1))
    often = hidden.flatten().bincount() / 4000
    assert (often - 0.75).abs().max() < 5 * math.sqrt(0.75 * 0.25 / 4000)


@pytest.mark.parametrize(("ratio", "hidden"), [(0.75, 12), (0.5, 8), (0.9, 14), (0.1, 2)])
def test_mask_ratio_is_exact(ratio, hidden):
    h, objective = attached(mask_ratio=ratio)
    seen = []
    h.blocks.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0].shape[1]))
    objective(h, images())
    assert seen == [16 - hidden]


def test_error_in_closed_form():
    x = torch.randn(2, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    hidden = torch.tensor([[0, 3], [4, 1]])
    own = (x - x.mean(2, keepdim=True)) / (x.var(2, keepdim=True) + 1e-6).sqrt()
    assert masked_error(own, x, hidden).item() == pytest.approx(0, abs=1e-12)
    assert masked_error(own + 3, x, hidden).item() == pytest.approx(9, abs=1e-12)
    predicted = torch.randn(2, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    terms = [(predicted[b, i] - own[b, i]).square().mean() for b in range(2) for i in hidden[b]]
    assert masked_error(predicted, x, hidden).item() == pytest.approx(sum(terms).item() / 4, abs=1e-12)


def test_error_is_of_hidden_patches_only():
    torch.manual_seed(0)
    x, predicted = torch.randn(2, 6, 16, 4, dtype=torch.float64)
    visible, hidden = random_split(6, 16, 12)
    loss = masked_error(predicted, x, hidden)
    there = visible[..., None].expand(-1, -1, 4)
    assert masked_error(predicted, x.scatter(1, there, 7.0), hidden) == loss
    assert masked_error(predicted.scatter(1, there, 7.0), x, hidden) == loss
    one = hidden[:, :1, None].expand(-1, -1, 4)
    assert masked_error(predicted.scatter(1, one, 7.0), x, hidden) != loss
    # A patch counts by its pattern, not its brightness or contrast.
    assert masked_error(predicted, 5 * x + 2, hidden).item() == pytest.approx(loss.item(), rel=1e-5)
    flat = torch.zeros_like(x)
    assert masked_error(predicted, flat, hidden) == pick(predicted, hidden).square().mean()


def test_decoder_sees_visible_tokens_in_their_places():
    _, objective = attached()
    objective.double()
    tokens = torch.randn(3, 4, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    visible, _ = random_split(3, 16, 12)
    seen = []
    objective.decoder.blocks.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    assert objective.decoder(tokens, visible).shape == (3, 16, 4)
    content = seen[0] - objective.decoder.positions
    torch.testing.assert_close(pick(content, visible), objective.decoder.embed(tokens))
    masks = (content - objective.decoder.mask).abs().amax(2) < 1e-12
    assert torch.equal(masks.sum(1), torch.full((3,), 12))


def gradients(h, objective):
    loss = objective(h, images())
    loss.backward()
    parts = {"trunk": [*h.embed.parameters(), *h.blocks.parameters()], "head": h.head.parameters()}
    return {part: {p.grad is not None for p in ps} for part, ps in (parts | {"decoder": decoder(objective)}).items()}


def decoder(objective):
    return objective.decoder.parameters()


def test_first_phase_trains_trunk_and_decoder_second_the_head():
    assert gradients(*attached()) == {"trunk": {True}, "head": {False}, "decoder": {True}}
    assert gradients(*attached(pretrain_fraction=0.0)) == {"trunk": {False}, "head": {True}, "decoder": {False}}


def test_second_phase_contrasts_images_with_themselves_and_the_negatives():
    h, objective = attached(pretrain_fraction=0.0, temperature=0.3)
    x, negatives = images(), torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    z = h(x)
    torch.testing.assert_close(objective(h, x), nt_xent(z, z, temperature=0.3))
    torch.testing.assert_close(
        objective(h, x, negatives=negatives), nt_xent(z, z, temperature=0.3, negatives=negatives)
    )
    assert objective(h, x, negatives=negatives) > objective(h, x)


def test_phase_changes_at_its_fraction_and_is_kept():
    h, objective = attached(pretrain_fraction=0.5)
    for progress, phase in [(0.0, False), (0.49, False), (0.5, True), (1.0, True)]:
        objective.after_step(h, progress)
        assert bool(objective.contrasting) == phase
        _, other = attached(pretrain_fraction=0.5)
        other.load_state_dict(objective.state_dict())
        assert bool(other.contrasting) == phase


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: mae(mask_ratio=1.0), r"mask_ratio: 1\.0 must"),
        (lambda: mae(pretrain_fraction=2.0), r"pretrain_fraction: 2\.0 must"),
        (lambda: mae(temperature=0.0), r"temperature: 0\.0 must"),
        (lambda: attached(mask_ratio=0.01), r"mask_ratio: 0\.01 of 16 patches"),
        (lambda: attached(mask_ratio=0.99), r"mask_ratio: 0\.99 of 16 patches"),
        (lambda: attached(heads=3), "width: 8 must be a multiple of 4 and of heads, 3"),
        (lambda: mae().attach(encoder()), "ViTEncoder, not ResNetEncoder"),
        (lambda: vit(patch=3), "patch: 3 must divide the size of the image, 8"),
        (lambda: vit(width=18), "width: 18 must"),
        (lambda: vit(depth=0), "depth: 0 must"),
        (lambda: vit(mean=(0.1, 0.2)), r"mean: \[0\.1, 0\.2\] must have one value"),
        (lambda: vit()(torch.zeros(2, 1, 4, 4)), "size: 8 must be that of the images, 4x4"),
    ],
)
def test_refuses(make, message):
    with pytest.raises(UserError, match=message):
        make()


@pytest.mark.parametrize(("fraction", "fall"), [(1.0, 0.9), (0.0, 0.9)])
def test_loss_falls(fraction, fall):
    h, objective = attached(pretrain_fraction=fraction)
    x = images(32)
    optimizer = torch.optim.Adam([*h.parameters(), *objective.parameters()], lr=3e-3)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = objective(h, x)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) < fall * sum(losses[:5])


def pretraining():
    torch.manual_seed(1)
    objective = mae(pretrain_fraction=0.5)
    adamw = lambda parameters: torch.optim.AdamW(parameters, lr=1e-2, weight_decay=0.1)  # noqa: E731
    return Pretraining(ViTEncoder(**TINY | {"mean": None, "std": None}), objective, adamw, warmup_steps=1)


def weights(module, name):
    return torch.cat([p.detach().flatten() for k, p in module.named_parameters() if name in k])


def test_two_phases_of_one_run(tmp_path):
    model = pretraining()
    steps = {part: [weights(model, part)] for part in ("encoder.embed", "encoder.blocks", "encoder.head", "decoder")}

    def see(run, module):
        for part, history in steps.items():
            history.append(weights(module, part))

    trainer(tmp_path, max_epochs=2, callbacks=[Watch(see)]).fit(model, TinyData())
    for part, history in steps.items():
        changed = [not torch.equal(a, b) for a, b in pairwise(history)]
        # Nor weight decay nor momentum move what is frozen.
        assert changed == ([False] * 4 + [True] * 4 if part == "encoder.head" else [True] * 4 + [False] * 4), part


def train(folder, stop=None, ckpt_path=None):
    model = pretraining()
    torch.manual_seed(7)

    def kill(run, module):
        if run.global_step == stop:
            raise InterruptedError

    keep = LastCheckpoint(folder, "model: null", every_n_steps=1)
    fit = trainer(folder, callbacks=[Watch(kill), keep], enable_checkpointing=True, max_epochs=2)
    fit.fit(model, TinyData(flip=True), ckpt_path=ckpt_path, weights_only=True)
    return torch.load(folder / "last.ckpt", weights_only=True)


@pytest.mark.parametrize("cut", [3, 4, 5])
def test_resumed_is_never_cut(cut, tmp_path):
    for name in ("whole", "cut"):
        (tmp_path / name).mkdir()
    whole = train(tmp_path / "whole")
    with pytest.raises(InterruptedError):
        train(tmp_path / "cut", stop=cut + 1)  # before the checkpoint of that step
    kept = torch.load(tmp_path / "cut" / "last.ckpt", weights_only=True)
    assert (kept["global_step"], bool(kept["state_dict"]["objective.contrasting"])) == (cut, cut >= 4)
    torch.manual_seed(99)
    resumed = train(tmp_path / "cut", ckpt_path=tmp_path / "cut" / "last.ckpt")
    assert resumed["global_step"] == whole["global_step"] == 8
    for name, value in whole["state_dict"].items():
        assert torch.equal(value, resumed["state_dict"][name]), name


@pytest.mark.parametrize("jointly", [False, True])
def test_trains_within_liebm(jointly, tmp_path):
    objective = mae(pretrain_fraction=0.5)
    stage = EncoderStage(objective, epochs=1, warmup_steps=1, drop_epochs=(), jointly=jointly)
    method = liebm(encoder=vit(), encoder_stage=stage)
    first = {k: p.clone() for k, p in method.encoder.named_parameters()}
    mask = objective.decoder.mask.detach().clone()
    trainer(tmp_path).fit(method, TinyData())
    assert bool(objective.contrasting)
    now = method.encoder.named_parameters()
    assert all(p.isfinite().all() and not torch.equal(p, first[k]) for k, p in now)
    assert not torch.equal(objective.decoder.mask, mask)
