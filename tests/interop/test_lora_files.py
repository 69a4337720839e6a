"""LoRA files of other programs are merged into the weights that are sampled, as those programs do."""

import hashlib
import json
import shutil

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionInpaintPipeline, StableDiffusionPipeline, UNet2DConditionModel
from peft import LoraConfig, get_peft_model, inject_adapter_in_model
from peft.utils import get_peft_model_state_dict
from PIL import Image
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from ldm import checkpoint, load
from ldm.config import compose, resolved
from ldm.evaluate.program import evaluate
from ldm.generation.sample import sample
from ldm.interop.export.lora import LoRAFormat
from ldm.interop.export.model import BACKBONE
from ldm.interop.export.program import export
from ldm.interop.lora.chosen import ChosenLoRA, chosen_loras
from ldm.interop.lora.layers import layers_of
from ldm.interop.lora.merging import merged
from ldm.interop.reading import read_foreign
from ldm.interop.unet.names import empty_unet
from ldm.optim.lora import LoRA, LowRank
from ldm.sampler.noise import SeededNoise
from tests.data.small_shards import level, write_tar
from tests.interop import loras, pipelines
from tests.interop.test_export import PROMPTS, STEPS, ours
from tests.interop.test_lora import adapted

VERSIONS = [{}, {"prediction": "v_prediction", "linear": True, "act": "gelu"}]
IDS = ["stable-diffusion-1", "stable-diffusion-2"]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Return the folder of a pipeline in small, the pipeline, and what is read of it."""
    folder = tmp_path_factory.mktemp("base")
    pipe = pipelines.stable_diffusion(folder)
    return folder / "pipeline", pipe, read_foreign(folder / "pipeline")


def changed(found, *files, scale=1.0):
    return merged(found.config, found.weights, chosen_loras(list(files), scale))


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def theirs(pipe):
    """Sample a pipeline as `ours` samples a model."""
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, timestep_spacing="trailing")
    noise = SeededNoise([3, 4]).draw((4, 8, 8))
    found = pipe(PROMPTS, latents=noise, num_inference_steps=STEPS, guidance_scale=3.0, output_type="np").images
    return torch.from_numpy(found).permute(0, 3, 1, 2) * 2 - 1


def test_what_was_exported_gives_the_weights_of_the_merged_model_bit_by_bit(tmp_path):
    config, model = adapted(tmp_path)
    export(config, model.state_dict(), LoRAFormat(), str(tmp_path / "out"), name="mine")
    expected = LoRA(rank=4, alpha=2).merge(model.state_dict())
    found = read_foreign(tmp_path / "pipeline")
    assert same(changed(found, tmp_path / "out"), expected)
    assert not same(found.weights, expected)


def test_all_layers_of_stable_diffusion_1_have_a_place_in_full_size():
    """They are those of diffusers' U-Net; the 192 of its transformers, and 72 of the text encoder, are those of kohya's files."""
    node = resolved(compose("train", ["experiment=stable_diffusion_1"]).model)
    with torch.device("meta"):
        unet = UNet2DConditionModel(cross_attention_dim=768)
        encoder = CLIPTextModel(CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_attention_heads=12))
    weights = {
        f"{BACKBONE}{name}": tensor for name, tensor in empty_unet(node["denoiser"]["backbone"]).state_dict().items()
    }
    weights |= {f"conditioner.encoder.{name}": tensor for name, tensor in encoder.state_dict().items()}
    found = layers_of(node, weights)
    wide = (nn.Linear, nn.Conv2d)
    for place, other in (("unet", unet), ("text_encoder", encoder)):
        names = {name.replace(".", "_") for name, layer in other.named_modules() if isinstance(layer, wide)}
        ours = {layer for network, layer in found if network == place and not layer.startswith("embeddings_")}
        assert names == ours
    in_transformers = [layer for place, layer in found if place == "unet" and "attentions" in layer]
    assert len(in_transformers) == 192
    assert len([layer for place, layer in found if place == "text_encoder" and "encoder_layers" in layer]) == 72


def test_a_scale_of_0_changes_nothing_and_scales_add(base, tmp_path):
    _, pipe, found = base
    file = loras.write(tmp_path / "a.safetensors", loras.kohya(loras.changes(pipe)))
    assert same(changed(found, file, scale=0.0), found.weights)
    once, twice = changed(found, file, scale=0.8), changed(found, file, file, scale=[0.5, 0.3])
    back = changed(found, file, file, scale=[0.7, -0.7])
    for name, weight in found.weights.items():
        torch.testing.assert_close(twice[name], once[name], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(back[name], weight, atol=1e-5, rtol=1e-5)
    assert not same(once, found.weights)


@pytest.mark.parametrize("kernel", [1, 3])
def test_the_change_of_a_convolution_is_that_of_two_convolutions(kernel):
    """Its weight computes the same as the first matrix's convolution and then the second's."""
    down, up = nn.Conv2d(5, 2, kernel, padding=kernel // 2, bias=False), nn.Conv2d(2, 7, 1, bias=False)
    x = torch.randn(1, 5, 6, 6)
    whole = LowRank(down.weight, up.weight).times(0.5).view(7, 5, kernel, kernel)
    expected = 0.5 * up(down(x))
    torch.testing.assert_close(nn.functional.conv2d(x, whole, padding=kernel // 2), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("options", VERSIONS, ids=IDS)
def test_their_pipeline_makes_the_same_images_with_a_file_of_kohya(tmp_path, options):
    pipe = pipelines.stable_diffusion(tmp_path, **options)
    before = theirs(pipe)
    loras.write(tmp_path / "style.safetensors", loras.kohya(loras.changes(pipe)))
    pipe.load_lora_weights(tmp_path, weight_name="style.safetensors")
    after = theirs(pipe)
    assert (after - before).std() > 0.02
    model = load(tmp_path / "pipeline", loras={tmp_path / "style.safetensors": 1.0})
    torch.testing.assert_close(ours(model), after, atol=1e-3, rtol=0)
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    pipe.save_pretrained(tmp_path / "fused")
    fused = load(tmp_path / "fused").state_dict()
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(weight, fused[name], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("options", VERSIONS, ids=IDS)
@pytest.mark.parametrize("with_metadata", [True, False], ids=["with-metadata", "without"])
def test_their_pipeline_makes_the_same_images_with_the_file_that_it_saved(tmp_path, options, with_metadata):
    pipe = pipelines.stable_diffusion(tmp_path, **options)
    before = theirs(pipe)
    ends = {"unet": loras.UNET_LAYERS + loras.CONVOLUTIONS, "text_encoder": loras.TEXT_LAYERS}
    patterns = {"unet": {"attn1.to_q": 3}, "text_encoder": {"fc1": 2}}
    saved = {}
    for name, own in ends.items():
        network = getattr(pipe, name)
        more = (
            {"lora_alpha": 6, "alpha_pattern": patterns[name], "use_rslora": name == "unet"}
            if with_metadata
            else {"lora_alpha": 4}
        )
        options = LoraConfig(r=4, target_modules=list(loras.layers_in(network, own)), **more)
        inject_adapter_in_model(options, network)
        for place, weight in network.named_parameters():
            if "lora_" in place:
                nn.init.normal_(weight, std=0.05)
        saved[f"{name}_lora_layers"] = get_peft_model_state_dict(network)
        if with_metadata:
            plain = {key: list(value) if isinstance(value, set) else value for key, value in options.to_dict().items()}
            saved[f"{name}_lora_adapter_metadata"] = plain
    StableDiffusionPipeline.save_lora_weights(tmp_path / "saved", **saved)
    after = theirs(pipe)
    assert (after - before).std() > 0.02
    torch.testing.assert_close(
        ours(load(tmp_path / "pipeline", loras={tmp_path / "saved": 1.0})), after, atol=1e-3, rtol=0
    )


@pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
)  # peft asks transformers so
def test_the_folders_that_peft_writes_give_the_same_images(tmp_path):
    """One of the U-Net and one of the text encoder; the strength is in the file beside the matrices."""
    pipe = pipelines.stable_diffusion(tmp_path)
    before = theirs(pipe)
    ends = {"unet": loras.UNET_LAYERS + loras.CONVOLUTIONS, "text_encoder": loras.TEXT_LAYERS}
    for name, own in ends.items():
        network = getattr(pipe, name)
        options = {"lora_alpha": 6, "alpha_pattern": {own[0]: 3}, "use_rslora": name == "unet"}
        peft = get_peft_model(network, LoraConfig(r=4, target_modules=list(loras.layers_in(network, own)), **options))
        for place, weight in peft.named_parameters():
            if "lora_" in place:
                nn.init.normal_(weight, std=0.05)
        peft.save_pretrained(tmp_path / name)
    after = theirs(pipe)
    assert (after - before).std() > 0.02
    folders = [tmp_path / name for name in ends]
    torch.testing.assert_close(
        ours(load(tmp_path / "pipeline", loras=dict.fromkeys(folders, 1.0))), after, atol=1e-3, rtol=0
    )
    (tmp_path / "unet" / "adapter_config.json").unlink()
    with pytest.raises(
        ValueError, match=r"written by peft, and adapter_config\.json, which has its strength, is not beside"
    ):
        load(tmp_path / "pipeline", loras={folders[0]: 1.0})


def as_processor(name):
    """Return the name of a layer of an attention in early files of diffusers."""
    return name.replace(".to_out.0", ".to_out").replace(".to_", ".processor.to_")


OTHER_NAMES = {
    "peft": lambda pairs: loras.named(pairs, ".lora_A.weight", ".lora_B.weight"),
    "an adapter's name": lambda pairs: loras.named(pairs, ".lora_A.default.weight", ".lora_B.default.weight"),
    "lora.down": lambda pairs: loras.named(pairs, ".lora.down.weight", ".lora.up.weight"),
    "lora_linear_layer": lambda pairs: loras.named(
        pairs, ".lora_linear_layer.down.weight", ".lora_linear_layer.up.weight"
    ),
    "kohya without alpha": lambda pairs: loras.kohya(pairs, alpha=None),
    "kohya of two encoders": lambda pairs: {
        name.replace("lora_te_", "lora_te1_"): tensor for name, tensor in loras.kohya(pairs, alpha=loras.RANK).items()
    },
    "text_model": lambda pairs: {
        name.replace("text_encoder.", "text_encoder.text_model."): tensor
        for name, tensor in loras.named(pairs, ".lora_A.weight", ".lora_B.weight").items()
    },
    "half precision": lambda pairs: {
        name: tensor.half() for name, tensor in loras.named(pairs, ".lora_A.weight", ".lora_B.weight").items()
    },
}


@pytest.mark.parametrize("layout", OTHER_NAMES)
def test_all_names_mean_the_same_layers(base, tmp_path, layout):
    _, pipe, found = base
    pairs = {place: [matrix.half().float() for matrix in pair] for place, pair in loras.changes(pipe).items()}
    expected = changed(found, loras.write(tmp_path / "a.safetensors", loras.kohya(pairs, alpha=loras.RANK)))
    file = loras.write(tmp_path / "b.safetensors", OTHER_NAMES[layout](pairs))
    assert same(changed(found, file), expected)


def test_names_of_processors_mean_layers_of_attentions(base, tmp_path):
    """Also without the network's name, as in the earliest files of diffusers; the text encoder's layers are called so, too."""
    _, pipe, found = base
    pairs = {
        place: pair
        for place, pair in loras.changes(pipe, convolutions=False).items()
        if ".to_" in place[1] or "_proj" in place[1].rpartition(".")[2]
    }
    unet = {place: pair for place, pair in pairs.items() if ".to_" in place[1]}
    text = {place: pair for place, pair in pairs.items() if place[0] == "text_encoder"}

    def of_text(name):
        return (
            name.replace("q_proj", "to_q")
            .replace("k_proj", "to_k")
            .replace("v_proj", "to_v")
            .replace("out_proj", "to_out")
        )

    expected = changed(found, loras.write(tmp_path / "a.safetensors", loras.kohya({**unet, **text}, alpha=loras.RANK)))
    ends = ("_lora.down.weight", "_lora.up.weight")
    tensors = loras.named(unet, *ends, prefix=False, rename=as_processor) | loras.named(text, *ends, rename=of_text)
    assert same(changed(found, loras.write(tmp_path / "b.safetensors", tensors)), expected)


def test_alpha_of_the_metadata_is_that_of_each_network(base, tmp_path):
    _, pipe, found = base
    pairs = loras.changes(pipe)
    tensors = loras.named(pairs, ".lora_A.weight", ".lora_B.weight")
    metadata = {"unet.lora_alpha": 2, "unet.alpha_pattern": {"ff.net.2": 8}, "text_encoder.lora_alpha": 6}
    got = changed(
        found, loras.write(tmp_path / "a.safetensors", tensors, {"lora_adapter_metadata": json.dumps(metadata)})
    )
    plain = changed(found, loras.write(tmp_path / "b.safetensors", tensors))
    factors = {"denoiser.": 0.5, "conditioner.": 1.5}
    for name, weight in found.weights.items():
        if not weight.is_floating_point():
            continue
        factor = 2.0 if name.endswith("feed.1.weight") else factors.get(name[: name.index(".") + 1], 1.0)
        torch.testing.assert_close(got[name] - weight, factor * (plain[name] - weight), atol=1e-5, rtol=1e-4)


def test_input_channels_of_a_model_for_inpainting_have_the_order_of_other_programs(tmp_path):
    pipe = pipelines.stable_diffusion(tmp_path, kind=StableDiffusionInpaintPipeline)
    found = read_foreign(tmp_path / "pipeline")
    down, up = torch.randn(2, 9, 3, 3), torch.randn(32, 2, 1, 1)
    file = loras.write(tmp_path / "a.safetensors", loras.kohya({("unet", "conv_in"): (down, up)}, alpha=2))
    with torch.no_grad():
        pipe.unet.conv_in.weight += (up.flatten(1) @ down.flatten(1)).view(32, 9, 3, 3)
    pipe.save_pretrained(tmp_path / "other")
    name = "denoiser.backbone.conv_in.weight"
    torch.testing.assert_close(changed(found, file)[name], read_foreign(tmp_path / "other").weights[name])


def test_a_model_that_was_trained_here_takes_a_lora_beside_what_is_merged_already(tmp_path):
    config, model = adapted(tmp_path)
    export(config, model.state_dict(), LoRAFormat(), str(tmp_path / "out"), name="mine")
    checkpoint.save(tmp_path / "model.safetensors", model, config)
    one = checkpoint.load(
        tmp_path / "model.safetensors", loras={tmp_path / "out" / "lora.safetensors": 1.0}
    ).state_dict()
    two = checkpoint.load(tmp_path / "pipeline", loras={tmp_path / "out": 2.0}).state_dict()
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, two[name], atol=1e-6, rtol=1e-6)


FIRST = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0"
KEY = f"{FIRST}_attn2_to_k"
TEXT = "lora_te_text_model_encoder_layers_0_self_attn_q_proj"


def pair(layer, inputs, outputs=64, rank=4):
    return {f"{layer}.lora_down.weight": torch.ones(rank, inputs), f"{layer}.lora_up.weight": torch.ones(outputs, rank)}


SMALL = pair(KEY, 64, 32)
WRONG = {
    "stable-diffusion-1": (
        pair(KEY, 768),
        "is a LoRA for Stable Diffusion 1, whose tokens have 768, .* tokens have 64",
    ),
    "stable-diffusion-2": (pair(KEY, 1024), "is a LoRA for Stable Diffusion 2, whose tokens have 1024"),
    "stable-diffusion-xl": (
        pair("lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k", 2048),
        "for Stable Diffusion XL, whose tokens have 2048",
    ),
    "its second text encoder": (SMALL | pair(TEXT.replace("te", "te2", 1), 64), "is a LoRA for Stable Diffusion XL"),
    "text encoder of stable-diffusion-2": (pair(TEXT, 1024), "is a LoRA for Stable Diffusion 2"),
    "hada": (SMALL | {f"{KEY}.hada_w1_a": torch.ones(2, 2)}, rf"holds LoHa \({KEY}.hada_w1_a\), which is not read"),
    "lokr": ({f"{KEY}.lokr_w1": torch.ones(2, 2)}, "holds LoKr"),
    "tucker": (SMALL | {f"{KEY}.lora_mid.weight": torch.ones(4, 4, 3, 3)}, "holds LoCon with a third matrix"),
    "dora": (SMALL | {f"{KEY}.dora_scale": torch.ones(64)}, "holds DoRA"),
    "dora of peft": (SMALL | {"unet.a.lora_magnitude_vector": torch.ones(64)}, "holds DoRA"),
    "biases": (SMALL | {"unet.a.lora_B.bias": torch.ones(64)}, "holds LoRA with biases"),
    "whole changes": (SMALL | {f"{KEY}.diff_b": torch.ones(64)}, "holds whole changes of weights"),
    "no lora": ({"conv_in.weight": torch.ones(2, 2)}, "holds no LoRA .*conv_in.weight"),
    "alpha alone": ({f"{KEY}.alpha": torch.ones(())}, "holds no LoRA"),
    "strange tensors": (
        SMALL | {"bundle_emb.word": torch.ones(2)},
        "has 1 tensors that are no part of a LoRA: bundle_emb.word",
    ),
    "a matrix alone": (
        SMALL | {f"{FIRST}_attn1_to_k.lora_down.weight": torch.ones(4, 32)},
        "has 1 tensors of layers of which a matrix is missing: .*attn1_to_k.lora_down",
    ),
    "an alpha alone": (
        SMALL | {f"{FIRST}_attn1_to_k.alpha": torch.ones(())},
        "a matrix is missing: .*attn1_to_k.alpha",
    ),
    "one layer twice": (
        SMALL | {f"{KEY.replace('lora_unet_', 'unet.')}.lora_A.weight": torch.ones(4, 64)},
        "the same of one layer twice",
    ),
    "other ranks": (
        SMALL | {f"{KEY}.lora_up.weight": torch.ones(32, 5)},
        r"\(4, 64\) and .* \(32, 5\) are no matrices with a product",
    ),
    "several alphas": (SMALL | {f"{KEY}.alpha": torch.ones(3)}, r"alpha is one number, not \(3,\)"),
    "layers of no model": (
        SMALL | pair("lora_unet_single_blocks_0_linear1", 8) | pair("unet.double_blocks.3.img_attn", 8),
        "2 of 3 layers that .* changes are none of this model: lora_unet_single_blocks_0_linear1.lora_down.weight, unet.double",
    ),
    "a layer of the text encoder": (
        SMALL | pair(TEXT.replace("layers_0", "layers_9"), 64),
        "1 of 2 layers .*layers_9",
    ),
    "other widths": (
        pair(f"{FIRST}_attn1_to_k", 320, 320),
        r"does not fit .*\(4, 320\) .*\(320, 4\) for a weight \(32, 32\)",
    ),
    "another kernel": (
        {
            "lora_unet_down_blocks_0_resnets_0_conv1.lora_down.weight": torch.ones(4, 32, 1, 1),
            "lora_unet_down_blocks_0_resnets_0_conv1.lora_up.weight": torch.ones(32, 4, 1, 1),
        },
        r"does not fit .*for a weight \(32, 32, 3, 3\)",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_belong_to_the_model_is_refused_and_named(base, tmp_path, name):
    tensors, message = WRONG[name]
    with pytest.raises(ValueError, match=message):
        changed(base[2], loras.write(tmp_path / "a.safetensors", tensors))
    changed(base[2], loras.write(tmp_path / "b.safetensors", SMALL))


def test_the_version_that_the_metadata_name_is_said(base, tmp_path):
    tensors = pair(f"{FIRST}_attn1_to_k", 320, 320)
    file = loras.write(tmp_path / "a.safetensors", tensors, {"ss_base_model_version": "sd_v1"})
    with pytest.raises(ValueError, match="its metadata says that it is for sd_v1"):
        changed(base[2], file)


def test_a_model_without_the_text_encoder_refuses_its_change(base, tmp_path):
    found = base[2]
    config = {**found.config, "conditioner": {"_target_": "ldm.conditioner.unconditional.Unconditional"}}
    file = loras.write(tmp_path / "a.safetensors", SMALL | pair(TEXT, 64))
    weights = {name: tensor for name, tensor in found.weights.items() if not name.startswith("conditioner.")}
    with pytest.raises(ValueError, match=r"changes CLIP's text encoder .*Unconditional of this model has none"):
        merged(config, weights, [ChosenLoRA(file, 1.0)])


def test_an_autoencoder_takes_no_lora(base, tmp_path):
    file = loras.write(tmp_path / "a.safetensors", SMALL)
    with pytest.raises(ValueError, match="changes a latent diffusion model, and this is a ConvAutoencoder"):
        load(base[0] / "vae", loras={file: 1.0})


def test_a_whole_model_is_no_lora(base, tmp_path):
    config, model = adapted(tmp_path)
    checkpoint.save(tmp_path / "model.safetensors", model, config)
    with pytest.raises(ValueError, match="a whole model of this project.*format=lora"):
        changed(base[2], tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="holds no LoRA"):
        changed(base[2], base[0] / "unet" / "diffusion_pytorch_model.safetensors")


def test_no_code_of_a_pickle_is_run(base, tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "made"), "w"))

    torch.save({**SMALL, "evil": Evil()}, tmp_path / "a.ckpt")
    changed(base[2], tmp_path / "a.ckpt")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("lora", "scale", "message"),
    [
        (["a", "a"], [1.0], "names 2 files, and lora_scale has 1 numbers"),
        (["a"], "much", "lora_scale=much cannot be; give a finite number"),
        (["a"], [True], "lora_scale=true cannot be"),
        (None, 0.5, "lora_scale=0.5 would change nothing without a LoRA"),
        (["b"], 1.0, "no LoRA at lora=.*b.safetensors; there is .*a.safetensors"),
    ],
)
def test_wrong_choices_are_refused(tmp_path, lora, scale, message):
    loras.write(tmp_path / "a.safetensors", SMALL)
    files = None if lora is None else [tmp_path / f"{name}.safetensors" for name in lora]
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        chosen_loras(files, scale)


def test_a_folder_without_a_lora_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds none of lora.safetensors.*format=lora"):
        chosen_loras(tmp_path)


def sha256_of(file):
    return hashlib.sha256(file.read_bytes()).hexdigest()[:16]


def test_files_of_one_name_are_known_by_their_content(tmp_path):
    files = [tmp_path / name / "lora.safetensors" for name in ("one", "two", "copy")]
    for file, content in zip(files, (SMALL, SMALL | pair(TEXT, 64), SMALL), strict=True):
        file.parent.mkdir()
        loras.write(file, content)
    one, two, copy = chosen_loras([file.parent for file in files], 0.5)
    assert one.identity() == copy.identity() == f"lora.safetensors ({sha256_of(files[0])}) * 0.5", "wherever it lies"
    assert two.identity() == f"lora.safetensors ({sha256_of(files[1])}) * 0.5" != one.identity()


def drawn(base, out, *options):
    """Sample as a command does; return the bytes of the image, and its line of the record."""
    more = ["sampler.steps=2", "n=1", "device=cpu", f"out={out}"]
    prompt = [] if "mode=reconstruct" in options else ["prompt='a red heart'"]
    sample(compose("sample", [f"ckpt={base[0]}", *more, *prompt, *options]))
    return (out / "00000.png").read_bytes(), json.loads((out / "samples.jsonl").read_text())


def test_the_record_says_what_was_merged_and_the_same_request_gives_the_same_image(base, tmp_path):
    files = [loras.write(tmp_path / f"{name}.safetensors", loras.kohya(loras.changes(base[1]))) for name in "ab"]
    plain, record = drawn(base, tmp_path / "plain")
    assert not {"lora", "lora_scale", "lora_sha256"} & record.keys()
    options = [f"lora=[{files[0]},{files[1]}]", "lora_scale=[0.8,0.5]"]
    image, record = drawn(base, tmp_path / "one", *options)
    assert record["lora"] == [str(file) for file in files]
    assert record["lora_scale"] == [0.8, 0.5]
    assert record["lora_sha256"] == [sha256_of(file) for file in files]
    assert image != plain
    assert drawn(base, tmp_path / "two", *options)[0] == image
    assert drawn(base, tmp_path / "three", f"lora={files[0]}", "lora_scale=0")[0] == plain
    assert drawn(base, tmp_path / "four", f"lora={files[0]}")[1]["lora_scale"] == 1.0
    with pytest.raises(ValueError, match="lora=.*00000.png lies in out="):
        drawn(base, tmp_path / "four", f"lora=[{files[0]},{tmp_path / 'four' / '00000.png'}]")


def test_nothing_is_written_where_a_lora_cannot_be_merged(base, tmp_path):
    file = loras.write(tmp_path / "a.safetensors", pair(KEY, 768))
    Image.new("RGB", (16, 16)).save(tmp_path / "x.png")
    for options, message in (
        ([f"lora={file}"], "Stable Diffusion 1"),
        ([f"lora=[{file}]", "lora_scale=[1,2]"], "lora_scale has 2 numbers"),
        ([f"lora={file}", "mode=reconstruct", f"init={tmp_path / 'x.png'}"], "this mode asks the autoencoder alone"),
    ):
        with pytest.raises(ValueError, match=message):
            drawn(base, tmp_path / "out", *options)
    assert not (tmp_path / "out").exists()


@pytest.mark.e2e
def test_an_evaluation_is_of_the_merged_model_and_says_so(base, tmp_path):
    folder, pipe, _ = base
    file = loras.write(tmp_path / "style.safetensors", loras.kohya(loras.changes(pipe)))
    rows = [f"{number}\t{number}\t{PROMPTS[number % 2]}" for number in range(4)]
    (tmp_path / "captions.tsv").write_text("\n".join(["id\timage_id\tcaption", *rows]))
    more = ["conditions=captions", f"conditions.file={tmp_path}/captions.tsv", "sampler=ddim", "sampler.steps=2"]
    more += ["metric=inception_score_offline", "num_images=20", "device=cpu", f"ckpt={folder}"]

    def measured(out, *options):
        (found,) = evaluate(compose("evaluate", [*more, f"out={tmp_path / out}", *options]))
        return found["request"], (tmp_path / out / "images" / "000000.png").read_bytes()

    request, image = measured("plain")
    changed_request, other = measured("changed", f"lora={file}", "lora_scale=0.5")
    assert changed_request.pop("lora") == [f"style.safetensors ({sha256_of(file)}) * 0.5"]
    assert changed_request["model"] != request["model"]
    assert {**changed_request, "model": request["model"]} == request
    assert other != image
    with pytest.raises(ValueError, match="holds images of another request"):
        measured("plain", f"lora={file}")
    (tmp_path / "other").mkdir()
    pairs = {place: [2 * matrix for matrix in both] for place, both in loras.changes(pipe).items()}
    same_name = loras.write(tmp_path / "other" / file.name, loras.kohya(pairs))
    with pytest.raises(
        ValueError, match=rf"(?s)another request.*lora: .*{sha256_of(file)}.* -> .*{sha256_of(same_name)}"
    ):
        measured("changed", f"lora={same_name}", "lora_scale=0.5")
    assert measured("changed", f"lora={shutil.copy(file, tmp_path / 'other')}", "lora_scale=0.5")[1] == other
    with pytest.raises(ValueError, match="lora= belongs to a model, and images= are measured as they are"):
        evaluate(compose("evaluate", [f"images={tmp_path}", f"lora={file}", f"out={tmp_path / 'none'}"]))
    samples = [
        (f"{n}.{e}", d) for n in range(3) for e, d in (("png", level(80 * n, size=(32, 32))), ("txt", b"a red heart"))
    ]
    val = write_tar(tmp_path / "val.tar", samples)
    plain, changed = (
        evaluate(
            compose(
                "evaluate",
                [
                    "protocol=validation_loss",
                    f"ckpt={folder}",
                    f"data.val={val}",
                    f"data.cache={tmp_path}",
                    "device=cpu",
                ]
                + [f"out={tmp_path / name}", *options],
            )
        )[0]
        for name, options in (("plain-loss", []), ("changed-loss", [f"lora={file}", "lora_scale=0.5"]))
    )
    assert changed["request"].pop("lora") == [f"style.safetensors ({sha256_of(file)}) * 0.5"]
    assert changed["scores"] != plain["scores"]
