"""Models of ours in other programs' layouts: diffusers' own pipelines make the same images, and nothing is lost on the way."""

import json

import pytest
import torch
import yaml
from diffusers import AutoencoderKL, DDIMScheduler, DiffusionPipeline, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import LDMBertModel
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, BertTokenizer, CLIPTextModel, CLIPTokenizer

from ldm import checkpoint
from ldm.conditioner.base import tensor_to_text, text_to_tensor
from ldm.config import build
from ldm.guidance.base import NoGuidance
from ldm.guidance.classifier_free import ClassifierFreeGuidance
from ldm.interop.autoencoder.vae_file import read as read_vae
from ldm.interop.export.compvis import CompVisFormat
from ldm.interop.export.diffusers import DiffusersFormat
from ldm.interop.export.program import export
from ldm.interop.reading import read_foreign
from ldm.interop.request import ReadRequest
from ldm.pretrained.tokens import encode_texts
from ldm.sampler.ddim import DDIM
from ldm.sampler.noise import SeededNoise
from ldm.sampler.timestep_spacing import TrailingSpacing
from tests.cases import mostly_slow
from tests.conftest import forked
from tests.interop import checkpoints as made
from tests.interop import pipelines
from tests.interop.conditioner.vocabularies import CLIP_SIZE, clip_files
from tests.interop.test_compvis_checkpoint import written

PROMPTS = ["a red heart", "a blue cat on white"]
STEPS = 5


def model_of(config, weights):
    model = build(config)
    model.load_state_dict(
        {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in weights.items()}
    )
    return model.eval()


def ours(model, **options):
    sampler = DDIM(STEPS, timestep_spacing=TrailingSpacing())
    return model.sample(prompts=PROMPTS, seeds=[3, 4], sampler=sampler, guidance=ClassifierFreeGuidance(3.0), **options)


@pytest.mark.parametrize("options", [{}, {"prediction": "v_prediction", "linear": True, "act": "gelu"}])
def test_their_pipeline_makes_the_same_images(tmp_path, options):
    """Also with shift and scale of their own for each channel, which are folded into the autoencoder."""
    pipelines.stable_diffusion(tmp_path, **options)
    found = read_foreign(tmp_path / "pipeline")
    found.weights["autoencoder.shift"] = torch.tensor([0.1, -0.2, 0.3, 0.0])
    found.weights["autoencoder.scale"] = torch.tensor([0.3, 0.5, 0.25, 0.4])
    export(found.config, found.weights, DiffusersFormat(), str(tmp_path / "out"), name="mine")
    pipe = DiffusionPipeline.from_pretrained(tmp_path / "out")
    assert isinstance(pipe, StableDiffusionPipeline)
    pipe.set_progress_bar_config(disable=True)
    noise = SeededNoise([3, 4]).draw((4, 8, 8))
    theirs = pipe(PROMPTS, latents=noise, num_inference_steps=STEPS, guidance_scale=3.0, output_type="np").images
    expected = torch.from_numpy(theirs).permute(0, 3, 1, 2) * 2 - 1
    assert expected.std() > 0.05
    torch.testing.assert_close(ours(model_of(found.config, found.weights)), expected, atol=1e-3, rtol=0)
    assert "guidance scale" in (tmp_path / "out" / "README.md").read_text()


def test_reading_what_was_exported_gives_the_same_tensors(tmp_path):
    pipelines.stable_diffusion(tmp_path)
    found = read_foreign(tmp_path / "pipeline")
    for form, name in ((DiffusersFormat(), "diffusers"), (CompVisFormat(), "compvis")):
        out = tmp_path / name
        export(found.config, found.weights, form, str(out), name="mine")
        again = read_foreign(
            out if name == "diffusers" else out / "model.safetensors",
            ReadRequest(tokenizer=str(tmp_path / "pipeline" / "tokenizer")),
        )
        assert again.weights.keys() == found.weights.keys()
        for key, tensor in found.weights.items():
            folded = name == "compvis" and key.startswith(("autoencoder.scale", "autoencoder.to_", "autoencoder.from_"))
            if not key.endswith(("_extra_state", "statistics_count")) and not folded:
                assert torch.equal(again.weights[key], tensor), key
        schedule = again.config["denoiser"]["schedule"]
        assert schedule == found.config["denoiser"]["schedule"]
        images = ours(model_of(again.config, again.weights))
        torch.testing.assert_close(images, ours(model_of(found.config, found.weights)), atol=1e-4, rtol=0)


@pytest.mark.parametrize("dtype", mostly_slow([torch.float32, torch.float16], [torch.float16]))
@pytest.mark.parametrize("kind", ["clip", "label", "bert", "none"])
def test_exporting_what_was_read_gives_the_same_bytes(tmp_path, kind, dtype):
    _, tensors, request = written(tmp_path, kind, dtype=dtype)
    if kind == "bert":
        request = ReadRequest(tokenizer=str(bert_base(tmp_path / "bert")))
    kept = {name: tensor for name, tensor in tensors.items() if ".loss." not in name and ".to_logits." not in name}
    save_file(kept, tmp_path / "model.safetensors")
    found = read_foreign(tmp_path / "model.safetensors", request)
    export(found.config, found.weights, CompVisFormat(), str(tmp_path / "out"), name="mine")
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == (tmp_path / "model.safetensors").read_bytes()


@pytest.mark.parametrize(("rows", "drop_rate"), [(1000, 0.0), (1001, 0.1)])
def test_the_classes_of_imagenet_are_as_many_as_they_were(tmp_path, rows, drop_rate):
    """The paper's first model of ImageNet has no row that says nothing."""
    file, tensors, request = written(tmp_path, "label")
    tensors["cond_stage_model.embedding.weight"] = torch.randn(rows, 24)
    made.save(file, tensors)
    request = ReadRequest(experiment="cin256" if drop_rate == 0.0 else "cin256_v2", scale=request.scale)
    found = read_foreign(file, request)
    assert found.config["conditioner"]["num_classes"] == 1000
    assert found.config["conditioner"]["drop_rate"] == drop_rate
    export(found.config, found.weights, CompVisFormat(), str(tmp_path / "out"), name="mine")
    again = load_file(tmp_path / "out" / "model.safetensors")
    assert torch.equal(again["cond_stage_model.embedding.weight"], tensors["cond_stage_model.embedding.weight"])


def test_an_openclip_keeps_its_numbers(tmp_path):
    _, tensors, request = written(tmp_path, "open_clip")
    found = read_foreign(tmp_path / "model.ckpt", request)
    export(found.config, found.weights, CompVisFormat(), str(tmp_path / "out"), name="mine")
    again = load_file(tmp_path / "out" / "model.safetensors")
    assert tensors.keys() - again.keys() == found.dropped.keys() - made.bookkeeping().keys()
    assert all(torch.equal(tensors[name], tensor) for name, tensor in again.items())
    file = tmp_path / "out" / "model.safetensors"
    read = read_foreign(file, request)
    assert read.weights.keys() == found.weights.keys(), "the last layer, which is gone, is not left out again"
    assert read.config["conditioner"] == found.config["conditioner"]
    export(read.config, read.weights, CompVisFormat(), str(tmp_path / "again"), name="mine")
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == file.read_bytes()


def bert_base(folder):
    """Write a vocabulary whose special tokens have the numbers that they have in bert-base-uncased."""
    folder.mkdir()
    words = [
        "[PAD]",
        *(f"[unused{number}]" for number in range(99)),
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        "a",
        "red",
        "heart",
    ]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    return folder


@pytest.mark.parametrize(
    ("kind", "params"),
    [
        ("clip", None),
        ("open_clip", {"freeze": True, "layer": "penultimate"}),
        ("bert", {"n_embed": 64, "n_layer": 2, "vocab_size": 300, "max_seq_len": 77, "use_tokenizer": True}),
        ("label", {"n_classes": 11, "embed_dim": 24, "key": "class_label"}),
    ],
)
def test_the_yaml_builds_the_conditioner_as_theirs_do(tmp_path, kind, params):
    file, _, request = written(tmp_path, kind)
    found = read_foreign(file, ReadRequest(tokenizer=str(bert_base(tmp_path / "b"))) if kind == "bert" else request)
    export(found.config, found.weights, CompVisFormat(), str(tmp_path / "out"), name="mine")
    node = yaml.safe_load((tmp_path / "out" / "model.yaml").read_text())["model"]["params"]["cond_stage_config"]
    assert node.get("params") == params


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("clip", {"num_attention_heads": 2}, "num_attention_heads=2 and hidden_act=quick_gelu has no place"),
        ("clip", {"hidden_act": "relu"}, "hidden_act=relu has no place"),
        ("bert", {"heads": 16, "head_width": 32}, "conditioner.heads=16 and conditioner.head_width=32 has no place"),
        ("bert", {"mask_padding": True}, "conditioner.mask_padding=true, has no place"),
    ],
)
def test_a_text_encoder_that_would_be_read_as_another_one_is_refused(tmp_path, kind, change, message):
    file, _, request = written(tmp_path, kind)
    found = read_foreign(file, ReadRequest(tokenizer=str(bert_base(tmp_path / "b"))) if kind == "bert" else request)
    if kind == "bert":
        found.config["conditioner"] |= change
    else:
        state = json.loads(tensor_to_text(found.weights["conditioner._extra_state"]))
        state["encoder"] |= change
        found.weights["conditioner._extra_state"] = text_to_tensor(json.dumps(state))
    with pytest.raises(ValueError, match=message):
        export(found.config, found.weights, CompVisFormat(), str(tmp_path / "out"), name="mine")


def test_a_tokenizer_of_its_own_has_no_place_in_one_file(tmp_path):
    file, _, request = written(tmp_path, "bert")
    found = read_foreign(file, request)
    with pytest.raises(ValueError, match="a tokenizer of its own"):
        export(found.config, found.weights, CompVisFormat(), str(tmp_path / "out"), name="mine")


def test_clip_and_bert_are_written_as_stock_pipelines_have_them(tmp_path):
    """With their own classes and files, and read back with the same tensors and tokens."""
    file, _, _ = written(tmp_path, "bert")
    found = read_foreign(file, ReadRequest(tokenizer=str(bert_base(tmp_path / "b"))))
    export(found.config, found.weights, DiffusersFormat(), str(tmp_path / "bert"), name="mine")
    tokens = BertTokenizer.from_pretrained(tmp_path / "bert" / "tokenizer")
    assert tokens("a red heart").input_ids == [101, 104, 105, 106, 102]
    tensors = made.tensors_of(made.whole(made.clip(64, 2, vocabulary=CLIP_SIZE), context_width=64))
    made.write_yaml(tmp_path / "clip.yaml", heads=2)
    file = made.save(tmp_path / "clip.ckpt", {**tensors, **made.bookkeeping()})
    found = read_foreign(file, ReadRequest(tokenizer=str(clip_files(tmp_path / "c"))))
    out = tmp_path / "clip"
    export(found.config, found.weights, DiffusersFormat(), str(out), name="mine")
    index = json.loads((out / "model_index.json").read_text())
    assert index["tokenizer"] == ["transformers", "CLIPTokenizer"]
    tokens = CLIPTokenizer.from_pretrained(out / "tokenizer")
    encoder = CLIPTextModel.from_pretrained(out / "text_encoder").eval()
    ids = tokens(PROMPTS, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids
    model = model_of(found.config, found.weights)
    with torch.no_grad():
        expected = encoder(ids).last_hidden_state
        torch.testing.assert_close(model.conditioner({"caption": PROMPTS}).tokens, expected, atol=1e-5, rtol=0)
    again = read_foreign(out)
    assert again.config["conditioner"] == found.config["conditioner"]
    assert all(torch.equal(again.weights[name], tensor) for name, tensor in found.weights.items() if "encoder" in name)
    texts = [*PROMPTS, "a cat!", "", "a " * 90]
    kept, new = (model_of(one.config, one.weights).conditioner.tokenizer for one in (found, again))
    assert [e.ids for e in encode_texts(new, texts)] == [e.ids for e in encode_texts(kept, texts)]


def test_the_paper_text_transformer_and_what_no_pipeline_runs(tmp_path):
    """LDMBertModel gives the same tokens; a model whose padding is masked is a set of components with a page that says how."""
    file, _, request = written(tmp_path, "bert")
    found = read_foreign(file, request)
    export(found.config, found.weights, DiffusersFormat(), str(tmp_path / "out"), name="mine")
    assert not (tmp_path / "out" / "model_index.json").exists(), "the autoencoder is not one of f = 8"
    tokens = AutoTokenizer.from_pretrained(tmp_path / "out" / "tokenizer")
    ids = tokens(PROMPTS, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids
    model = model_of(found.config, found.weights)
    config = LDMBertModel.config_class(**json.loads((tmp_path / "out" / "bert" / "config.json").read_text()))
    bert = LDMBertModel(config).eval()
    missing, unexpected = bert.load_state_dict(load_file(tmp_path / "out" / "bert" / "model.safetensors"), strict=False)
    assert {name.rpartition(".")[0] for name in missing} <= {"to_logits"}
    assert not unexpected
    with torch.no_grad():
        torch.testing.assert_close(model.conditioner({"caption": PROMPTS}).tokens, bert(ids)[0], atol=1e-4, rtol=1e-4)
    assert "No pipeline of diffusers runs this model" in (tmp_path / "out" / "README.md").read_text()


def test_an_autoencoder_alone(tmp_path):
    pipelines.stable_diffusion(tmp_path)
    autoencoder, node = checkpoint.load_autoencoder(tmp_path / "pipeline" / "vae")
    image = torch.rand(1, 3, 16, 16) * 2 - 1
    autoencoder.scale.copy_(torch.tensor([0.3, 0.5, 0.25, 0.4]))
    for form, name in ((DiffusersFormat(), "diffusers"), (CompVisFormat(), "compvis")):
        export(node, autoencoder.state_dict(), form, str(tmp_path / name), name="mine")
    theirs = AutoencoderKL.from_pretrained(tmp_path / "diffusers")
    with torch.no_grad():
        latent = autoencoder.to_latent(autoencoder.encode(image).mean)
        expected = theirs.encode(image).latent_dist.mean * theirs.config.scaling_factor
    torch.testing.assert_close(latent, expected, atol=1e-4, rtol=1e-4)
    part = read_vae(load_file(tmp_path / "compvis" / "autoencoder.safetensors"), scale=0.18215)
    assert torch.equal(part.weights["encoder.conv_in.weight"], autoencoder.encoder.conv_in.weight)


@pytest.mark.parametrize(
    ("change", "form", "message"),
    [
        (
            {"prediction": {"_target_": "ldm.diffusion.prediction.FlowPrediction"}},
            DiffusersFormat,
            "prediction=flow has no place .* its LoRA alone is written in any case",
        ),
        ({"learned_variance": True}, DiffusersFormat, "learned_variance=true has no place"),
        (
            {"schedule": {"_target_": "ldm.diffusion.schedule.SigmoidSchedule"}},
            DiffusersFormat,
            "schedule=sigmoid has no place",
        ),
        (
            {"schedule": {"_target_": "ldm.diffusion.schedule.CosineSchedule"}},
            CompVisFormat,
            "knows schedule=scaled_linear alone",
        ),
    ],
)
def test_what_a_format_cannot_hold_is_refused_before_anything_is_written(tmp_path, change, form, message):
    file, _, request = written(tmp_path, "clip")
    found = read_foreign(file, request)
    found.config["denoiser"] |= change
    with pytest.raises(ValueError, match=message):
        export(found.config, found.weights, form(), str(tmp_path / "out"), name="mine")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.ckpt", "model.yaml", "tokenizer"]


def test_other_schedules_of_betas_are_given_to_the_scheduler(tmp_path):
    file, _, request = written(tmp_path, "clip")
    found = read_foreign(file, request)
    found.config["denoiser"]["schedule"] = {"_target_": "ldm.diffusion.schedule.CosineSchedule"}
    export(found.config, found.weights, DiffusersFormat(), str(tmp_path / "out"), name="mine")
    theirs = DDIMScheduler.from_pretrained(tmp_path / "out" / "scheduler")
    schedule = build(found.config["denoiser"]["schedule"])
    times = torch.arange(1, 1001) / 1000
    torch.testing.assert_close(theirs.alphas_cumprod, (1 - schedule.variance(times)).float(), atol=1e-6, rtol=1e-4)


def sampled_by_parts(folder, noise):
    """Sample the parts of an exported run as its page says, without any code of ours."""
    tokens = AutoTokenizer.from_pretrained(folder / "tokenizer")
    config = LDMBertModel.config_class(**json.loads((folder / "bert" / "config.json").read_text()))
    bert = LDMBertModel(config).eval()
    bert.load_state_dict(load_file(folder / "bert" / "model.safetensors"), strict=False)
    unet = UNet2DConditionModel.from_pretrained(folder, subfolder="unet")
    autoencoder = AutoencoderKL.from_pretrained(folder, subfolder="vqvae")
    scheduler = DDIMScheduler.from_pretrained(folder, subfolder="scheduler")
    found = tokens(PROMPTS, padding="max_length", truncation=True, return_tensors="pt")
    mask = found.attention_mask
    states = bert(found.input_ids, attention_mask=mask)[0]
    mean = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    scheduler.set_timesteps(STEPS)
    for step in scheduler.timesteps:
        predicted = unet(noise, step, states, class_labels=mean, encoder_attention_mask=mask).sample
        noise = scheduler.step(predicted, step, noise).prev_sample
    return autoencoder.decode(noise / autoencoder.config.scaling_factor).sample.clamp(-1, 1)


@pytest.mark.e2e
def test_the_program_exports_a_trained_run_whose_parts_make_the_same_images(tiny_run, tmp_path):
    out = tmp_path / "exported"
    text = forked("-m", "ldm.interop.export", f"ckpt={tiny_run}", f"out={out}")
    assert f"{out / 'README.md'} says how its parts are used" in text
    model = checkpoint.load(tiny_run)
    sampler = DDIM(STEPS, timestep_spacing=TrailingSpacing())
    images = model.sample(prompts=PROMPTS, seeds=[3, 4], sampler=sampler, guidance=NoGuidance())
    shape = (model.autoencoder.latent_channels, *(side // model.autoencoder.downsampling_factor for side in model.size))
    with torch.no_grad():
        expected = sampled_by_parts(out, SeededNoise([3, 4]).draw(shape))
    assert images.std() > 0.05
    torch.testing.assert_close(images, expected, atol=1e-3, rtol=0)
    assert "is not empty (README.md, " in forked("-m", "ldm.interop.export", f"ckpt={tiny_run}", f"out={out}", ok=False)
    text = forked("-m", "ldm.interop.export", f"ckpt={tiny_run}", f"out={tmp_path / 'b'}", "format=compvis", ok=False)
    assert "has no place in this layout" in text
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("place", ["schedule", "adapter"])
def test_what_a_file_asks_to_construct_is_looked_at_first(tmp_path, place):
    pipelines.stable_diffusion(tmp_path)
    found = read_foreign(tmp_path / "pipeline")
    evil = {"_target_": "os.mkdir", "path": str(tmp_path / "evil")}
    node = found.config if place == "adapter" else found.config["denoiser"]
    node[place] = evil
    with pytest.raises(ValueError, match="asks to construct 'os.mkdir'"):
        export(found.config, found.weights, DiffusersFormat(), str(tmp_path / "out"), name="mine")
    assert not (tmp_path / "evil").exists()
    assert not (tmp_path / "out").exists()
