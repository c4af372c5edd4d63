"""The replay buffer: who is drawn, what is written back, what survives (law 15)."""

import math

import pytest
import torch

from ebmzoo.errors import UserError
from ebmzoo.sampling.replay import ReplayBuffer

POLICIES = ["slot", "ring", "reservoir"]


def states(start, n):
    """n states of shape (1, 2, 2), each filled with its own number."""
    return torch.arange(start, start + n, dtype=torch.float32).view(-1, 1, 1, 1).expand(-1, 1, 2, 2).clone()


def test_slots_are_different_and_written_back_where_they_came_from():
    buffer = ReplayBuffer(50, (1, 2, 2))
    before = buffer.states.clone()
    x, slots = buffer.draw(20)
    assert len(slots.unique()) == 20
    assert torch.equal(x, before[slots])
    buffer.store(x + 5, slots)
    untouched = torch.ones(50, dtype=torch.bool)
    untouched[slots] = False
    assert torch.equal(buffer.states[slots], before[slots] + 5)
    assert torch.equal(buffer.states[untouched], before[untouched])


@pytest.mark.parametrize("policy", POLICIES)
def test_reinit_frequency_is_binomial(policy):
    p, n, rounds = 0.05, 200, 50
    buffer = ReplayBuffer(200, (1, 1, 1), policy, reinit_prob=p)
    buffer.store(torch.full((200, 1, 1, 1), 9.0), torch.arange(200))
    anew = sum(int((buffer.draw(n)[0].abs() <= 1).sum()) for _ in range(rounds))
    assert abs(anew - p * n * rounds) < 5 * math.sqrt(p * (1 - p) * n * rounds)


@pytest.mark.parametrize("policy", ["ring", "reservoir"])
def test_empty_buffer_gives_noise(policy):
    x, _ = ReplayBuffer(10, (3, 4, 4), policy).draw(6)
    assert x.shape == (6, 3, 4, 4)
    assert float(x.abs().max()) <= 1
    assert float(x.std()) == pytest.approx(1 / math.sqrt(3), rel=0.2)


def test_ring_forgets_the_oldest():
    buffer = ReplayBuffer(5, (1, 2, 2), "ring")
    for start in range(0, 12, 3):
        buffer.store(states(start, 3), torch.zeros(3, dtype=torch.long))
    assert sorted(buffer.states[:, 0, 0, 0].tolist()) == [7, 8, 9, 10, 11]
    buffer.store(states(100, 12), torch.zeros(12, dtype=torch.long))
    assert sorted(buffer.states[:, 0, 0, 0].tolist()) == [107, 108, 109, 110, 111]


def test_ring_draws_only_what_was_stored():
    buffer = ReplayBuffer(100, (1, 2, 2), "ring")
    buffer.store(states(7, 1), torch.zeros(1, dtype=torch.long))
    x, _ = buffer.draw(40)
    assert (x == 7).all()


def test_reservoir_keeps_each_state_alike():
    size, total, rounds = 5, 25, 2000
    kept = torch.zeros(total)
    for _ in range(rounds):
        buffer = ReplayBuffer(size, (1, 1, 1), "reservoir")
        for start in range(0, total, 5):
            buffer.store(states(start, 5)[:, :, :1, :1], torch.zeros(5, dtype=torch.long))
        kept[buffer.states.flatten().long()] += 1
    p = size / total
    assert (kept - p * rounds).abs().max() < 5 * math.sqrt(p * (1 - p) * rounds)


@pytest.mark.parametrize("storage", ["float32", "uint8"])
def test_reservoir_is_algorithm_r(storage):
    """Of each state in its turn: the k-th fills slot k, or replaces slot ⌊u (k + 1)⌋ if there is one; the last wins."""
    buffer = ReplayBuffer(5, (1, 2, 2), "reservoir", storage=storage)
    expected, count, twice = buffer.states.clone(), 0, 0
    for start in range(0, 63, 9):  # more states at once than slots, so that several go to one
        new = states(start, 9) / 63
        torch.manual_seed(start)
        u = torch.rand(9)
        taken = set()
        for state, chance in zip(buffer._pack(new), u, strict=True):
            slot = count if count < 5 else int(chance * (count + 1))
            if slot < 5:
                expected[slot] = state
                twice += slot in taken
                taken.add(slot)
            count += 1
        torch.manual_seed(start)
        buffer.store(new, torch.zeros(9, dtype=torch.long))
        assert torch.equal(buffer.states, expected)
    assert twice > 0


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("storage", ["float32", "uint8"])
def test_resumes_to_the_last_bit(policy, storage):
    def run(buffer, rounds):
        for _ in range(rounds):
            x, slots = buffer.draw(4)
            buffer.store((x + 0.1).clamp(-1, 1), slots)
        return buffer

    torch.manual_seed(0)
    whole = run(ReplayBuffer(8, (1, 2, 2), policy, 0.1, storage=storage), 10)
    torch.manual_seed(0)
    half = run(ReplayBuffer(8, (1, 2, 2), policy, 0.1, storage=storage), 5)
    random = torch.get_rng_state()
    resumed = ReplayBuffer(8, (1, 2, 2), policy, 0.1, storage=storage)
    resumed.load_state_dict(half.state_dict())
    torch.set_rng_state(random)
    resumed = run(resumed, 5)
    assert torch.equal(resumed.states, whole.states)
    assert int(resumed.stored) == int(whole.stored)


def test_uint8_rounds_to_a_255th():
    buffer = ReplayBuffer(3, (3, 4, 4), storage="uint8")
    x = torch.rand(3, 3, 4, 4) * 2 - 1
    buffer.store(x, torch.arange(3))
    drawn, slots = buffer.draw(3)
    assert buffer.states.dtype == torch.uint8
    assert float((drawn - x[slots]).abs().max()) <= 1 / 255 + 1e-6


def test_wrong_use_is_named():
    with pytest.raises(UserError, match="too small to draw 6"):
        ReplayBuffer(5, (1, 1, 1)).draw(6)
    with pytest.raises(UserError, match="reinit_prob"):
        ReplayBuffer(5, (1, 1, 1), reinit_prob=1.5)
    with pytest.raises(UserError, match="size"):
        ReplayBuffer(0, (1, 1, 1))


def test_drawn_without_renewal_every_state_is_a_stored_one():
    buffer = ReplayBuffer(8, (1, 2, 2), "ring", reinit_prob=1.0)
    stored = torch.full((8, 1, 2, 2), 0.25)
    buffer.store(stored, torch.arange(8))
    assert torch.equal(buffer.draw(5, renew=False)[0], stored[:5])
    assert not torch.equal(buffer.draw(5)[0], stored[:5])


def test_a_change_is_made_to_old_states_and_not_to_fresh_noise():
    buffer = ReplayBuffer(200, (1, 2, 2), "ring", reinit_prob=0.5)
    buffer.store(torch.full((200, 1, 2, 2), 3.0), torch.arange(200))
    drawn = buffer.draw(200, change=lambda x: x + 4)[0]
    old = (drawn == 7).flatten(1).all(1)
    assert 50 < int(old.sum()) < 150
    assert float(drawn[~old].abs().max()) <= 1


def test_states_are_renewed_with_their_probability():
    p, n = 0.3, 2000
    buffer, x = ReplayBuffer(4, (1, 2, 2), reinit_prob=p), torch.full((n, 1, 2, 2), 9.0)
    renewed = buffer.renewed(x, torch.Generator().manual_seed(0))
    anew = (renewed != 9).flatten(1).all(1)
    assert torch.equal(renewed[~anew], x[~anew])
    assert float(renewed[anew].abs().max()) <= 1
    assert abs(int(anew.sum()) - p * n) < 5 * math.sqrt(p * (1 - p) * n)
    assert torch.equal(ReplayBuffer(4, (1, 2, 2)).renewed(x), x)
