"""Train on two processes, and check what each rank draws and what is equal on both ranks after training.

Run by test_run as each of two ranks.
"""

import sys

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from pytorch_lightning.trainer.states import TrainerFn

from ldm.callback.power_ema import PowerEMA
from ldm.callback.randomness import StepSeed
from ldm.config import compose
from ldm.model import LatentDiffusion
from ldm.training import run

drawn: list[torch.Tensor] = []
compared: list[int] = []
loss = LatentDiffusion.loss


def spied(self, batch):
    """Compute the loss, and record a number that the rank would draw next."""
    if self.training:  # validation measures on the same noise each time
        drawn.append(torch.randn(4, generator=torch.Generator().set_state(torch.get_rng_state())))
    return loss(self, batch)


def equal_on_all_ranks(name, tensor):
    """Assert that a tensor is the same on both ranks."""
    parts = [torch.empty_like(tensor) for _ in range(2)]
    dist.all_gather(parts, tensor)
    assert torch.equal(*parts), name


class Compare(pl.Callback):
    """A check after training, whose one method takes the place of the method of `StepSeed`.

    Weights (averaged by then), averages, scale and tokenizer are the same on both ranks; random draws are not.
    """

    def on_validation_end(self, trainer, pl_module):
        """Compare the ranks after the validation that ends a stage."""
        if trainer.state.fn != TrainerFn.VALIDATING:  # only the one that ends a stage
            return
        for name, tensor in pl_module.state_dict().items():
            equal_on_all_ranks(name, tensor.float().contiguous())
        compared.append(len(pl_module.state_dict()))
        for callback in trainer.callbacks:
            if isinstance(callback, PowerEMA):
                for name, tensor in callback.averages[0.1].items():
                    equal_on_all_ranks(name, tensor)
        if drawn:
            mine = torch.stack(drawn)
            parts = [torch.empty_like(mine) for _ in range(2)]
            dist.all_gather(parts, mine)
            assert not (parts[0] == parts[1]).all(1).any(), "ranks drew the same noise"
            assert len(torch.unique(torch.cat(parts), dim=0)) == 2 * len(drawn), "noise was used twice"


LatentDiffusion.loss = spied
StepSeed.on_validation_end = Compare.on_validation_end
config = compose(
    "train",
    ["experiment=txt2img", "debug=tiny", "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "name=ranks",
     "stage.diffusion.callbacks.power_ema.lengths=[0.1]",
     f"paths.runs_dir={sys.argv[1]}/runs", f"paths.data_dir={sys.argv[1]}/data"],
)  # fmt: skip
run.train(config)
assert drawn
assert len(compared) == 2, "both stages"
print("ranks agree")
