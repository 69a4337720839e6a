"""Fine-tuning of a checkpoint in the layout of Stable Diffusion, from the first command to the exported file."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel

from tests.conftest import forked
from tests.interop import checkpoints as made

WIDTH, POSITIONS = 64, 77


def source(folder):
    """Write a small Stable Diffusion 1 with its yaml, and the folder of its text encoder."""
    options = {"vocab_size": 64, "hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_hidden_layers": 2}
    ends = {"bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 3}
    encoder = CLIPTextModel(CLIPTextConfig(**options, **ends, num_attention_heads=1, max_position_embeddings=POSITIONS))
    encoder.save_pretrained(folder / "clip")
    made.tokenizer(folder / "clip")
    made.tokenizer(folder / "tokenizer")
    conditioner = made.clip(WIDTH, 2, vocabulary=64)
    tensors = made.tensors_of(made.whole(conditioner, context_width=WIDTH))
    own = {f"cond_stage_model.transformer.text_model.{name}": tensor for name, tensor in encoder.state_dict().items()}
    assert own.keys() == conditioner.keys()
    save_file({**tensors, **own}, folder / "model.safetensors")
    made.write_yaml(folder / "model.yaml")
    return folder / "model.safetensors", tensors


def small(folder, file):
    """Return options that fine-tune the checkpoint with small images and batches."""
    return [
        *(f"ckpt={file}", "data=icons", "data.size=16", "metric=offline", "trainer=cpu"),
        *(f"conditioner.name={folder}/clip", f"conditioner.width={WIDTH}", "data.source.count=4", "data.workers=0"),
        *("backbone.model_channels=32", "backbone.channel_mult=[1,2]", "backbone.blocks=1", "backbone.heads=2"),
        *("backbone.attention_levels=[0,1]", "autoencoder.network.channels=32", "autoencoder.network.blocks=1"),
        *("autoencoder.network.channel_mult=[1,2]", "stage.diffusion.batch_size=4"),
        *("stage.diffusion.validate_every_n_steps=3", "stage.diffusion.callbacks.evaluation=null", "optimizer.lr=1e-3"),
        *("sampler.steps=2", "data.val_images=4", "scheduler.warmup_steps=1"),
        *(f"paths.runs_dir={folder}/runs", f"paths.data_dir={folder}/data"),
    ]


@pytest.mark.e2e
def test_a_checkpoint_is_trained_on_and_exported_in_its_own_layout(tmp_path):
    file, before = source(tmp_path)
    forked("train.py", "experiment=finetune", *small(tmp_path, file), "trainer.max_steps=3")
    account = json.loads((tmp_path / "runs" / "finetune" / "diffusion" / "init.json").read_text())
    assert not account["new"]
    assert not account["left_out"]
    forked("-m", "ldm.interop.export", f"ckpt={tmp_path}/runs/finetune", f"out={tmp_path}/out", "format=compvis")
    after = load_file(tmp_path / "out" / "model.safetensors")
    kept = {name for name in before if ".loss." not in name}
    assert after.keys() == kept
    unet = [name for name in kept if name.startswith("model.diffusion_model.")]
    assert sum(not torch.equal(after[name], before[name]) for name in unet) > 0.9 * len(unet)
    others = [name for name in kept if name.startswith("first_stage_model.")]
    assert all(torch.equal(after[name], before[name]) for name in others)
    made.tokenizer(tmp_path / "out" / "tokenizer")
    ckpt = f"ckpt={tmp_path}/out/model.safetensors"
    assert "grid.png" in forked("sample.py", ckpt, "prompt=a red heart", "sampler.steps=2", f"out={tmp_path}/images")


@pytest.mark.e2e
def test_a_lora_is_trained_goes_on_after_a_stop_and_is_exported_alone(tmp_path):
    file, _ = source(tmp_path)
    options = ["experiment=finetune_lora", *small(tmp_path, file), "adapter.rank=2", "optimizer.lr=0.01"]
    forked("train.py", *options, "trainer.max_steps=3", "name=whole")
    forked("train.py", *options, "trainer.max_steps=2", "name=stopped")
    assert (tmp_path / "runs" / "stopped" / "diffusion" / "init.json").is_file()
    forked("train.py", *options, "trainer.max_steps=3", "name=stopped")
    for name in ("whole", "stopped"):
        forked("-m", "ldm.interop.export", f"ckpt={tmp_path}/runs/{name}", f"out={tmp_path}/{name}", "format=lora")
    whole, stopped = (load_file(tmp_path / name / "lora.safetensors") for name in ("whole", "stopped"))
    assert whole.keys() == stopped.keys()
    assert all(torch.equal(tensor, stopped[name]) for name, tensor in whole.items())
    assert all(tensor.any() for name, tensor in whole.items()), "B begins at zero, and nothing of it was trained"
    results = json.loads((tmp_path / "runs" / "whole" / "diffusion" / "results.json").read_text())
    assert results["trained parameters"] == sum(tensor.numel() for tensor in whole.values() if tensor.ndim)
    measured = forked("train.py", *options, "trainer.max_steps=3", "name=whole", "validate_only=true")
    assert "measuring" in measured
    again = json.loads((tmp_path / "runs" / "whole" / "diffusion" / "results.json").read_text())
    assert again["val/loss"] == results["val/loss"]
    (checkpoint,) = (tmp_path / "runs" / "whole" / "diffusion" / "checkpoints").glob("step-*.ckpt")
    frozen, model = (next((tmp_path / "runs" / "whole").rglob(name)) for name in ("frozen-*", "model.safetensors"))
    assert checkpoint.stat().st_size < model.stat().st_size / 4, "a checkpoint holds what is trained alone"
    assert frozen.stat().st_size > model.stat().st_size / 2
    before = forked(
        "sample.py", f"ckpt={checkpoint}", "prompt=a red heart", "sampler.steps=2", f"out={tmp_path}/images"
    )
    assert "grid.png" in before
