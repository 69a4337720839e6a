"""A LoRA that was trained here, in diffusers."""

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from safetensors import safe_open
from torch import nn

from ldm import checkpoint
from ldm.interop.export.compvis import CompVisFormat
from ldm.interop.export.lora import LoRAFormat
from ldm.interop.export.program import export
from ldm.interop.reading import read_foreign
from ldm.interop.request import ReadRequest
from ldm.optim.lora import ADAPTER_KEY, LoRA
from ldm.sampler.noise import SeededNoise
from tests.interop import pipelines
from tests.interop.test_export import PROMPTS, STEPS, model_of, ours

NODE = {"_target_": "ldm.optim.lora.LoRA", "rank": 4, "alpha": 2, "dropout": 0.0}


def adapted(folder, **options):
    """Return the config and the model of a pipeline in `folder`, with a LoRA whose matrices are as if they were trained."""
    pipelines.stable_diffusion(folder, **options)
    found = read_foreign(folder / "pipeline")
    model = model_of(found.config, found.weights)
    LoRA(rank=4, alpha=2).adapt(model.denoiser.backbone)
    generator = torch.Generator().manual_seed(5)
    for weight in model.denoiser.backbone.parameters():
        if weight.requires_grad:
            nn.init.normal_(weight, std=0.2, generator=generator)
    return {**found.config, ADAPTER_KEY: NODE}, model


def content(file):
    """Return tensors and metadata of a .safetensors."""
    with safe_open(file, framework="pt") as opened:
        return {name: opened.get_tensor(name) for name in opened.keys()}, opened.metadata()  # noqa: SIM118


@pytest.mark.parametrize("options", [{}, {"prediction": "v_prediction", "linear": True}])
def test_their_pipeline_makes_the_same_images(tmp_path, options):
    config, model = adapted(tmp_path, **options)
    export(config, model.state_dict(), LoRAFormat(), str(tmp_path / "out"), name="mine")
    pipe = StableDiffusionPipeline.from_pretrained(tmp_path / "pipeline", safety_checker=None)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, timestep_spacing="trailing")
    pipe.set_progress_bar_config(disable=True)
    noise = SeededNoise([3, 4]).draw((4, 8, 8))

    def images():
        found = pipe(PROMPTS, latents=noise, num_inference_steps=STEPS, guidance_scale=3.0, output_type="np").images
        return torch.from_numpy(found).permute(0, 3, 1, 2) * 2 - 1

    before = images()
    pipe.load_lora_weights(tmp_path / "out", weight_name="lora.safetensors")
    after = images()
    assert (after - before).std() > 0.02
    torch.testing.assert_close(ours(model), after, atol=1e-3, rtol=0)


def test_a_checkpoint_with_a_lora_is_sampled_and_exported_as_a_whole(tmp_path):
    config, model = adapted(tmp_path)
    checkpoint.save(tmp_path / "model.safetensors", model, config)
    images = ours(model)
    torch.testing.assert_close(ours(checkpoint.load(tmp_path / "model.safetensors")), images, atol=1e-4, rtol=0)
    export(*checkpoint.read(tmp_path / "model.safetensors"), CompVisFormat(), str(tmp_path / "out"), name="mine")
    whole = read_foreign(
        tmp_path / "out" / "model.safetensors", ReadRequest(tokenizer=str(tmp_path / "pipeline" / "tokenizer"))
    )
    torch.testing.assert_close(ours(model_of(whole.config, whole.weights)), images, atol=1e-3, rtol=0)


def test_the_file_says_rank_and_alpha_and_holds_the_matrices_alone(tmp_path, capsys):
    config, model = adapted(tmp_path)
    export(config, model.state_dict(), LoRAFormat(), str(tmp_path / "out"), name="mine", dtype="float16")
    assert f"{tmp_path / 'out'}: 1 file, " in capsys.readouterr().out
    tensors, metadata = content(tmp_path / "out" / "lora.safetensors")
    names = tensors.keys()
    assert metadata == {"ss_network_module": "networks.lora", "ss_network_dim": "4", "ss_network_alpha": "2"}
    first = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    assert {f"{first}.lora_down.weight", f"{first}.lora_up.weight", f"{first}.alpha"} <= names
    assert all(name.endswith((".lora_down.weight", ".lora_up.weight", ".alpha")) for name in names)
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}
    assert len(names) == 3 * 8 * 4  # 8 layers in each of 4 transformer blocks


def test_it_is_written_whatever_the_model_predicts_and_whichever_its_schedule_and_autoencoder_are(tmp_path):
    """The same file, since none of them is in it."""
    config, model = adapted(tmp_path)
    flow = {
        "prediction": {"_target_": "ldm.diffusion.prediction.FlowPrediction"},
        "schedule": {"_target_": "ldm.diffusion.schedule.RectifiedFlowSchedule"},
        "learned_variance": True,
    }
    other = {
        **config,
        "size": [64, 32],
        "denoiser": {**config["denoiser"], **flow},
        "autoencoder": {"_target_": "ldm.autoencoder.identity.CopyAutoencoder"},
    }
    weights = model.state_dict()
    export(config, weights, LoRAFormat(), str(tmp_path / "noise"), name="mine")
    export(other, weights, LoRAFormat(), str(tmp_path / "flow"), name="mine")
    (tensors, metadata), (others, other_metadata) = (
        content(tmp_path / form / "lora.safetensors") for form in ("noise", "flow")
    )
    assert metadata == other_metadata
    assert tensors.keys() == others.keys()
    assert all(torch.equal(tensor, others[name]) for name, tensor in tensors.items())


def test_what_has_no_lora_is_refused(tmp_path):
    pipelines.stable_diffusion(tmp_path)
    found = read_foreign(tmp_path / "pipeline")
    with pytest.raises(ValueError, match="without an adapter"):
        export(found.config, found.weights, LoRAFormat(), str(tmp_path / "out"), name="mine")
    assert not (tmp_path / "out").exists()
