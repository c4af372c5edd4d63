"""A run that is killed 20 times with SIGKILL and resumes each time: `kill_script.py FOLDER`; see test_kill.py.

Each attempt is a fork, so that torch is imported once. Half of the kills come from outside after a random while; the
others strike at chosen points of writing a checkpoint.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch
from lightning.pytorch.callbacks import Callback

from ebmzoo.training import checkpoint as checkpoints
from ebmzoo.training import durable
from ebmzoo.training.checkpoint import LastCheckpoint, newest
from support.marginal import igebm
from support.tiny import TinyData, trainer

KILLS = 20


def train(folder, steps, found=None, callbacks=()):
    """A run with a replay buffer that writes a checkpoint at every iteration."""
    torch.manual_seed(1)
    method = igebm(replay_size=20)
    torch.manual_seed(7 if found is None else 99)
    keep = LastCheckpoint(folder, "model: null", every_n_steps=1)
    fit = trainer(folder, max_steps=steps, max_epochs=-1, callbacks=[*callbacks, keep], enable_checkpointing=True)
    fit.fit(method, TinyData(flip=True), ckpt_path=found, weights_only=True)


class ReportIteration(Callback):
    """Writes the number of each starting iteration, which has a checkpoint on disk, into a pipe."""

    def __init__(self, pipe):
        self.pipe = pipe

    def on_train_batch_start(self, trainer, *_):
        os.write(self.pipe, b"%d\n" % trainer.global_step)


def die():
    os.kill(os.getpid(), signal.SIGKILL)


class Torn:
    """A file that takes `room` bytes before the process dies."""

    def __init__(self, file, room):
        self.file, self.room = file, room

    def write(self, data):
        if self.room < len(data):
            self.file.write(bytes(data)[: self.room])
            self.file.flush()
            die()
        self.room -= len(data)
        return self.file.write(data)

    def __getattr__(self, name):
        return getattr(self.file, name)


def strike(point, after, draw):
    """Arrange that the process dies at `point` of writing its `after`-th checkpoint."""
    save, rename, hard_link, left = torch.save, durable.rename, checkpoints.hard_link, [after]

    def saving(content, file):
        left[0] -= 1
        save(content, Torn(file, draw.randrange(60_000)) if point == "bytes" and left[0] == 0 else file)
        if point == "before fsync" and left[0] == 0:
            die()

    def renaming(old, new):
        if point == "before rename" and left[0] == 0 and new.name == "last.ckpt":
            die()
        rename(old, new)
        if point == "after rename" and left[0] == 0 and new.name == "last.ckpt":
            die()

    def keeping(path, second):
        hard_link(path, second)
        if point == "after link" and left[0] == 0:
            die()

    torch.save = saving
    durable.rename = checkpoints.rename = renaming
    checkpoints.hard_link = keeping


POINTS = ["bytes", "bytes", "before fsync", "after link", "before rename", "after rename", "bytes", "bytes", "bytes"]


def attempt(folder, point, draw):
    """One killed attempt: the iterations that it reported, the first being that of its checkpoint."""
    reads, writes = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reads)
        if point is not None:
            strike(point, draw.randint(1, 4), draw)
        train(folder, 10**6, newest(folder), [ReportIteration(writes)])
        os._exit(1)
    os.close(writes)
    reported = b""
    if point is None:
        for _ in range(draw.randint(1, 5)):
            reported += os.read(reads, 1)
            while reported and not reported.endswith(b"\n"):
                reported += os.read(reads, 1)
        time.sleep(draw.uniform(0, 0.04))
        os.kill(child, signal.SIGKILL)
    while more := os.read(reads, 1000):
        reported += more
    os.close(reads)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    return [int(line) for line in reported.split()]


def main(folder):
    draw = random.Random(0)
    points = [*POINTS, *[None] * (KILLS - len(POINTS))]
    draw.shuffle(points)
    cut, reported = folder / "cut", [attempt(folder / "cut", point, draw) for point in points]
    found = newest(cut)
    last = checkpoints.read(found)["global_step"] + 3
    train(cut, last, found)
    train(folder / "whole", last)
    (folder / "reported.json").write_text(json.dumps({"iterations": reported, "last": last}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
