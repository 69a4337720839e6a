"""Whole checkpoints of CompVis' programs become models of ours, and every tensor is accounted for."""

import json

import pytest
import torch

from ldm import checkpoint
from ldm.files.tensors import write_tensors
from ldm.interop.conventions import prediction_node
from ldm.interop.foreign import CONFIG_KEY
from ldm.interop.reading import read_foreign
from ldm.interop.request import ReadRequest
from ldm.sampler.ddim import DDIM
from tests.cases import mostly_slow
from tests.interop import checkpoints as made

KINDS = {
    "clip": (made.clip(64, 2, vocabulary=64), {"context_width": 64}, {"heads": 2}),
    "open_clip": (
        made.open_clip(64, 3, vocabulary=64),
        {"context_width": 64, "linear": True, "model_channels": 64},
        {"head_channels": 64},
    ),
    "bert": (made.bert(64, 2, vocabulary=300), {"context_width": 64}, {"heads": 2}),
    "label": ({"cond_stage_model.embedding.weight": (11, 24)}, {"context_width": 24}, {"heads": 1}),
    "none": ({}, {}, {"head_channels": 16}),
}


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


def written(folder, kind, *, dtype=torch.float32, beside=None, **params):
    """Write a checkpoint of a kind, with its yaml; return it, its tensors, and the wishes with which it is read."""
    conditioner, options, heads = KINDS[kind]
    tensors = made.tensors_of(made.whole(conditioner, **options), dtype)
    made.write_yaml(folder / "model.yaml", **heads, **params)
    file = made.save(folder / "model.ckpt", {**tensors, **made.bookkeeping(), **(beside or {})})
    return file, tensors, ReadRequest(tokenizer=str(made.tokenizer(folder / "tokenizer")))


@pytest.mark.parametrize("dtype", mostly_slow([torch.float32, torch.float16, torch.bfloat16], [torch.float16]))
def test_every_tensor_is_taken_or_left_out_for_a_reason(tmp_path, kind, dtype):
    file, tensors, request = written(tmp_path, kind, dtype=dtype)
    found = read_foreign(file, request)
    assert found.layout == "CompVis"
    left = {name for name in found.dropped if not name.startswith("model_ema")}
    expected = {name for name in tensors if ".loss." in name or "to_logits" in name or "resblocks.2" in name}
    expected |= {f"cond_stage_model.model.{name}" for name in ("text_projection", "logit_scale") if kind == "open_clip"}
    assert left - made.bookkeeping().keys() == expected
    kept = sum(tensor.numel() for name, tensor in tensors.items() if name not in expected)
    own = {
        name: t for name, t in found.weights.items() if not name.endswith(("_extra_state", "shift", "scale", "count"))
    }
    assert sum(tensor.numel() for tensor in own.values()) == kept
    assert {tensor.dtype for tensor in own.values()} == {dtype}


def test_it_is_loaded_as_a_model_and_samples(tmp_path, kind):
    file, _, request = written(tmp_path, kind)
    found = read_foreign(file, request)
    path = tmp_path / "ours.safetensors"
    write_tensors(path, found.weights, {CONFIG_KEY: json.dumps(found.config)})
    model = checkpoint.load(path)
    assert model.size == (16, 16)
    assert model.autoencoder.scale.unique().tolist() == [pytest.approx(0.18215)]
    fields = {"label": [3, 9]} if kind == "label" else {"caption": ["a red heart", "blue"]}
    images = model.sample(
        {**fields} if kind != "none" else None,
        prompts=None if kind != "none" else ["", ""],
        seeds=[1, 2],
        sampler=DDIM(5),
    )
    assert images.shape == (2, 3, 16, 16)
    assert images.std() > 0.01
    assert not torch.equal(images[0], images[1])


def test_averaged_weights_are_preferred(tmp_path):
    conditioner, options, _ = KINDS["clip"]
    tensors = made.tensors_of(made.whole(conditioner, **options))
    file, _, request = written(tmp_path, "clip", beside=made.averages(tensors))
    name = "denoiser.backbone.conv_in.weight"
    own = tensors["model.diffusion_model.input_blocks.0.0.weight"]
    assert torch.equal(read_foreign(file, request).weights[name], own + 0.25)
    plain = read_foreign(file, ReadRequest(tokenizer=request.tokenizer, averaged=False))
    assert torch.equal(plain.weights[name], own)


def test_the_yaml_says_what_tensors_do_not(tmp_path):
    params = {"parameterization": "v", "linear_start": 0.001, "linear_end": 0.02, "scale_factor": 0.5}
    file, _, request = written(tmp_path, "clip", **params)
    made_of = {
        name: tensor for name, tensor in torch.load(file)["state_dict"].items() if name not in made.bookkeeping()
    }
    made.save(file, made_of)
    found = read_foreign(file, request)
    denoiser = found.config["denoiser"]
    assert denoiser["prediction"]["_target_"].endswith("VelocityPrediction")
    assert denoiser["schedule"] == {
        "_target_": "ldm.diffusion.schedule.ScaledLinearSchedule", "start": 0.001, "end": 0.02, "steps": 1000,
    }  # fmt: skip
    assert found.weights["autoencoder.scale"].tolist() == [0.5] * 4
    assert denoiser["backbone"]["heads"] == 2


def test_betas_and_scale_of_the_checkpoint_are_read_without_a_yaml(tmp_path):
    file, tensors, request = written(tmp_path, "clip")
    file.with_suffix(".yaml").unlink()
    made.save(file, {**tensors, **made.bookkeeping(start=0.0015, end=0.0195), "scale_factor": torch.tensor(0.3)})
    found = read_foreign(file, ReadRequest(tokenizer=request.tokenizer, heads=2))
    schedule = found.config["denoiser"]["schedule"]
    assert (schedule["start"], schedule["end"]) == (pytest.approx(0.0015), pytest.approx(0.0195))
    assert found.weights["autoencoder.scale"].tolist() == [pytest.approx(0.3)] * 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model.diffusion_model.time_embed.0.bias": None}, "missing: model.diffusion_model.time_embed.0.bias"),
        (
            {"somebody.weight": (3,)},
            "1 tensors belong to nothing that is known here: somebody.weight; tried was the layout",
        ),
        ({"cond_stage_model.other.weight": (3,)}, "cond_stage_model.other.weight"),
        ({"model.diffusion_model.input_blocks.9.0.weight": (3,)}, "model.diffusion_model.input_blocks.9.0.weight"),
        ({"first_stage_model.encoder.extra.weight": (3,)}, "first_stage_model.encoder.extra.weight"),
        ({"model_ema.strange": (3,)}, "averaged weights belong to no weight of the U-Net"),
    ],
)
def test_what_is_missing_or_left_over_is_named(tmp_path, change, message):
    file, tensors, request = written(tmp_path, "clip")
    more = made.tensors_of({name: shape for name, shape in change.items() if shape is not None})
    made.save(file, {name: value for name, value in {**tensors, **more}.items() if change.get(name, ()) is not None})
    with pytest.raises(ValueError, match=message):
        read_foreign(file, request)


def test_what_nothing_says_is_asked_for(tmp_path):
    file, _, request = written(tmp_path, "clip")
    file.with_suffix(".yaml").unlink()
    with pytest.raises(ValueError, match="how many heads .* give heads=N"):
        read_foreign(file, ReadRequest(tokenizer=request.tokenizer, scale=1.0))
    with pytest.raises(ValueError, match="nothing says how latents of this KL autoencoder are scaled .* give scale="):
        read_foreign(file, ReadRequest(tokenizer=request.tokenizer, heads=2))
    file, _, request = written(tmp_path, "open_clip")
    file.with_suffix(".yaml").unlink()
    with pytest.raises(ValueError, match="give prediction=velocity"):
        read_foreign(file, ReadRequest(tokenizer=request.tokenizer, scale=1.0))
    asked = ReadRequest(tokenizer=request.tokenizer, prediction=prediction_node("velocity"), scale=1.0)
    assert read_foreign(file, asked).config["size"] == 768
    with pytest.raises(FileNotFoundError, match="give tokenizer=FOLDER"):
        read_foreign(
            file, ReadRequest(tokenizer=str(tmp_path / "nowhere"), prediction=prediction_node("noise"), scale=1.0)
        )


def test_parts_that_are_there_twice_or_for_nothing_are_left_out(tmp_path):
    """A first stage that also encodes the condition is stored twice; merged files keep what is left of CLIP."""
    file, tensors, request = written(tmp_path, "none")
    start = "first_stage_model."
    again = {
        f"cond_stage_model.{name.removeprefix(start)}": value
        for name, value in tensors.items()
        if name.startswith(start)
    }
    made.save(file, {**tensors, **again})
    found = read_foreign(file, request)
    assert again.keys() <= found.dropped.keys()
    file, tensors, request = written(tmp_path, "clip")
    rest = {"cond_stage_model.logit_scale": torch.ones(()), "cond_stage_model.text_projection": torch.ones(64, 64)}
    made.save(file, {**tensors, **rest})
    assert rest.keys() <= read_foreign(file, request).dropped.keys()


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"parameterization": "strange"}, "parameterization 'strange' is none of eps, v, x0"),
        ({"beta_schedule": "cosine"}, "beta_schedule 'cosine' is not supported"),
        (
            {"unet_config": {"params": {"num_heads": 2, "use_new_attention_order": True}}},
            "use_new_attention_order=true",
        ),
    ],
)
def test_what_a_yaml_asks_for_and_ours_cannot_is_refused(tmp_path, params, message):
    file, _, request = written(tmp_path, "none", **params)
    with pytest.raises(ValueError, match=message):
        read_foreign(file, request)


def test_a_map_beside_the_latent_that_nothing_gives_is_refused(tmp_path):
    file, _, request = written(tmp_path, "clip")
    conditioner, options, _ = KINDS["clip"]
    made.save(file, made.tensors_of(made.whole(conditioner, **options, in_channels=8)))
    with pytest.raises(
        ValueError, match=r"takes 4 channels beside the latent, .* gives 0 or 5 \(inpainting\) or 1 \(depth\)"
    ):
        read_foreign(file, request)
