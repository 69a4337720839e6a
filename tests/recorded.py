"""Train, write down each batch, and end at a given moment.

Run by test_resume: python -m tests.recorded RECORD MOMENT option=value ...

RECORD is a file to which a line is added for each batch: stage, optimiser step, rank, keys, loss; and to RECORD.read
one for each process: the training shards that it had read from when its first batch was there.

MOMENT is "" or STAGE/BATCH/SIGNAL: the signal is sent to itself by rank 0 in the middle of that batch of that stage,
counted from the start of this process; with the batch "save", while a checkpoint is being written.
"""

import json
import logging
import os
import signal
import sys

import torch

from ldm.callback.writer import CheckpointWriter, draft_of
from ldm.config import compose
from ldm.task.autoencoder import AutoencoderTask
from ldm.task.diffusion import DiffusionTask
from ldm.training import run

record, moment, *options = sys.argv[1:]
stage, when, name = moment.split("/") if moment else ("", "", "SIGKILL")
number = getattr(signal, name)
send = os.kill
if name == "SIGTERM" and "trainer=ddp" not in options:
    os.setpgrp()
    send = os.killpg  # as job managers do: workers get it, too
batches = {"autoencoder": 0, "diffusion": 0}
shards, pread = set(), os.pread


def counting_pread(handle, size, offset):
    """Read from a file, and record its name."""
    shards.add(os.path.basename(os.readlink(f"/proc/self/fd/{handle}")))
    return pread(handle, size, offset)


def recorded(task, place):
    """Let a task write down each of its batches, and send itself a signal at the given moment."""
    step = task.training_step

    def training_step(self, batch, batch_idx):
        if not any(batches.values()):
            with open(f"{record}.read", "a") as file:
                file.write(json.dumps(sorted(name for name in shards if name.startswith("train"))) + "\n")
        now, losses = self.global_step, []
        if place == "autoencoder":
            discriminator_loss = self.loss.autoencoder
            self.loss.autoencoder = lambda *a, **k: losses.append(discriminator_loss(*a, **k)) or losses[-1]
        result = step(self, batch, batch_idx)
        if place == "autoencoder":
            del self.loss.autoencoder
        if (place, str(batches[place])) == (stage, when) and self.global_rank == 0:
            send(os.getpid(), number)
        batches[place] += 1
        loss = losses[0].total if losses else result
        line = {"stage": place, "step": now, "rank": self.global_rank, "keys": batch.key}
        with open(record, "a") as file:
            file.write(json.dumps({**line, "loss": float(loss)}) + "\n")
        return result

    task.training_step = training_step


def dies_while_saving(self, checkpoint, path, storage_options=None):
    """Save a checkpoint, but send the signal before it is complete."""
    if f"/{stage}/" in str(path):
        torch.save(checkpoint, draft_of(path))
        os.kill(os.getpid(), number)
    save(self, checkpoint, path)


def touches_the_length(self):
    """Ask for the number of steps, which makes Lightning forget the state of stateful loaders (its issue 20550)."""
    assert self.trainer.estimated_stepping_batches > 0
    return configure(self)


logging.basicConfig(level=logging.INFO)
os.pread = counting_pread
recorded(AutoencoderTask, "autoencoder")
recorded(DiffusionTask, "diffusion")
configure = DiffusionTask.configure_optimizers
DiffusionTask.configure_optimizers = touches_the_length
if when == "save":
    save, CheckpointWriter.save_checkpoint = CheckpointWriter.save_checkpoint, dies_while_saving
run.train(compose("train", options))
