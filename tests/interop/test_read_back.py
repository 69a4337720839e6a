"""Exported models that no pipeline of diffusers runs: the folder of their components is read back as the same model."""

import json

import pytest
import torch

from ldm import checkpoint
from ldm.conditioner.huggingface import HuggingFaceConditioner
from ldm.config import build
from ldm.files.tensors import write_tensors
from ldm.interop.export.diffusers import DiffusersFormat
from ldm.interop.export.program import export
from ldm.interop.foreign import CONFIG_KEY
from ldm.interop.pipeline import OWN_INDEX
from ldm.interop.reading import is_foreign, read_foreign
from ldm.interop.request import ReadRequest
from ldm.sampler.ddim import DDIM
from tests.interop import checkpoints, scenes
from tests.interop.test_compvis_checkpoint import written

CONDITIONS = {
    "label": {"label": [3, 9]},
    "bert": {"caption": ["a red heart", "a blue cat on white"]},
    "clip": {"caption": ["a red heart", "a blue cat on white"]},
}
"""Kind of a model -> what it is conditioned on."""


def made(folder, kind, *, conditioner=None, regularizer=None, **backbone):
    """Return config and weights of a model of a kind, with other options and random weights, as a run leaves them."""
    file, _, request = written(folder, kind)
    node = read_foreign(file, request).config
    state = read_foreign(file, request).weights
    node["conditioner"] |= conditioner or {}
    node["denoiser"]["backbone"] |= backbone
    node["autoencoder"]["regularizer"] |= regularizer or {}
    torch.manual_seed(0)
    model = build(node)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2)
    kept = {name: value for name, value in state.items() if name.startswith(("conditioner.", "autoencoder.s"))}
    return node, {**model.state_dict(), **kept}


def export_and_read(node, weights, folder):
    export(node, weights, DiffusersFormat(), str(folder), name="mine")
    return read_foreign(folder)


def images(folder, node, weights, fields):
    """Return what a model makes that lies in a file of ours, or in a folder that was exported."""
    path = folder
    if weights is not None:
        path = folder / "ours.safetensors"
        write_tensors(path, weights, {CONFIG_KEY: json.dumps(node)})
    return checkpoint.load(path).sample(fields, seeds=[1, 2], sampler=DDIM(3))


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("label", {}),
        ("label", {"pool_tokens": True}),
        ("bert", {}),
        ("bert", {"pool_tokens": True, "conditioner": {"mask_padding": True, "drop_rate": 0.3}}),
        ("clip", {"conditioner": {"mask_padding": True}}),
    ],
)
def test_a_set_of_components_is_the_same_model_again(tmp_path, kind, options):
    """Its config, its tensors and its images; also what diffusers has no name for, like masked padding."""
    node, weights = made(tmp_path, kind, **options)
    out = tmp_path / "out"
    again = export_and_read(node, weights, out)
    assert not (out / "model_index.json").exists()
    assert again.config == node
    assert again.weights.keys() == weights.keys()
    for name, tensor in weights.items():
        if not name.endswith(("conditioner._extra_state", "statistics_count")):
            assert torch.equal(again.weights[name], tensor), name
    assert checkpoint.find(out) == out, "sample.py takes the folder, and no file of weights in it"
    made_here, made_again = images(tmp_path, node, weights, CONDITIONS[kind]), images(out, None, None, CONDITIONS[kind])
    assert torch.equal(made_here, made_again)
    assert made_here.std() > 0.01


def test_a_map_beside_a_text_with_masked_padding_comes_back(tmp_path):
    """The columns of the first layer, which diffusers has in another order, too."""
    found = read_foreign(scenes.written(tmp_path, "inpainting")[0])
    found.config["conditioner"]["parts"]["text"]["mask_padding"] = True
    again = export_and_read(found.config, found.weights, tmp_path / "out")
    assert again.config == found.config
    first = scenes.FIRST[1]
    assert torch.equal(again.weights[first], found.weights[first])
    assert again.weights.keys() == found.weights.keys()


def test_a_composite_keeps_its_tokenizer_and_the_names_of_classes(tmp_path):
    """Which are not numbers of a network, but in its state, so that no other program writes them."""
    node, weights = made(tmp_path, "bert")
    names = [f"class {place}" for place in range(10)]
    label = {
        "_target_": "ldm.conditioner.label.LabelConditioner",
        "num_classes": 10,
        "vector_width": 16,
        "names": names,
    }
    text = node["conditioner"]
    node["conditioner"] = {
        "_target_": "ldm.conditioner.composite.Composite",
        "parts": {"text": text, "label": label},
        "width": text["width"],
        "vector_width": 16,
    }
    node["denoiser"]["backbone"]["vector_width"] = 16
    text = {name.replace("conditioner.", "conditioner.parts.text."): value for name, value in weights.items()}
    weights = {**build(node).state_dict(), **{name: value for name, value in text.items() if "conditioner." in name}}
    again = export_and_read(node, weights, tmp_path / "out")
    assert again.config == node
    assert again.weights.keys() == weights.keys()
    for name in (name for name in weights if name.startswith("conditioner.")):
        assert torch.equal(again.weights[name], weights[name]), name


def test_a_t5_comes_back(tmp_path):
    """Any architecture of transformers is written; CLIP is not the only one that is read."""
    node, weights = made(tmp_path, "clip")
    node["conditioner"] = {
        "_target_": "ldm.conditioner.huggingface.HuggingFaceConditioner",
        "name": "t5",
        "width": 64,
        "max_tokens": 20,
    }
    small = {
        "model_type": "t5",
        "d_model": 64,
        "d_kv": 8,
        "d_ff": 32,
        "num_layers": 2,
        "num_heads": 2,
        "vocab_size": 64,
    }
    conditioner = HuggingFaceConditioner("t5", width=64, max_tokens=20)
    conditioner.adopt(small, str(checkpoints.tokenizer(tmp_path / "t5")))
    others = {name: value for name, value in weights.items() if not name.startswith("conditioner.")}
    own = {f"conditioner.{name}": value for name, value in conditioner.state_dict().items()}
    again = export_and_read(node, others | own, tmp_path / "out")
    assert again.config == node
    assert again.weights.keys() == others.keys() | own.keys()
    assert all(torch.equal(again.weights[name], own[name]) for name in own if not name.endswith("_extra_state"))
    path = tmp_path / "ours.safetensors"
    write_tensors(path, again.weights, {CONFIG_KEY: json.dumps(again.config)})
    expected = conditioner(CONDITIONS["clip"])
    found = checkpoint.load(path).conditioner(CONDITIONS["clip"])
    torch.testing.assert_close(found.tokens, expected.tokens)
    assert torch.equal(found.mask, expected.mask)


def test_a_codebook_whose_unused_codes_are_replaced_begins_to_count_anew(tmp_path):
    """The counters are of training alone; the config asks for them, so that the model is built with them."""
    node, weights = made(tmp_path, "label")
    regularizer = {"_target_": "ldm.autoencoder.vq.VQRegularizer", "codes": 32, "latent_channels": 4, "revive_after": 5}
    node["autoencoder"]["regularizer"] = regularizer
    weights = build(node).state_dict()
    weights["autoencoder.regularizer.unused"] += 3
    again = export_and_read(node, weights, tmp_path / "out")
    assert again.config == node
    assert again.weights.keys() == weights.keys()
    assert not again.weights["autoencoder.regularizer.unused"].any()


def test_what_the_folder_says_is_not_asked_for(tmp_path):
    node, weights = made(tmp_path, "label")
    export_and_read(node, weights, tmp_path / "out")
    wish = ReadRequest(experiment="cin256", size=64, tokenizer="unused")
    with pytest.raises(ValueError, match=f"{OWN_INDEX} says all that tensors do not tell; leave out as=, size="):
        read_foreign(tmp_path / "out", wish)


def test_classes_of_other_packages_are_not_built(tmp_path):
    node, weights = made(tmp_path, "label")
    export_and_read(node, weights, tmp_path / "out")
    node["conditioner"]["_target_"] = "os.system"
    (tmp_path / "out" / OWN_INDEX).write_text(json.dumps(node))
    with pytest.raises(ValueError, match="os.system"):
        read_foreign(tmp_path / "out")


@pytest.mark.parametrize(
    ("kind", "absent", "message"),
    [
        ("label", OWN_INDEX, rf"neither model_index.json nor {OWN_INDEX}.*copy that file, too"),
        ("label", "vqvae", r"lacks unet, or vae or vqvae"),
        ("label", "conditioner", r"embed.weight"),
        ("bert", "bert", r"none of the folders text_encoder, bert"),
    ],
)
def test_what_was_not_copied_is_named(tmp_path, kind, absent, message):
    node, weights = made(tmp_path, kind)
    out = tmp_path / "out"
    export_and_read(node, weights, out)
    (out / absent).rename(tmp_path / "elsewhere")
    assert is_foreign(out)
    with pytest.raises(ValueError, match=message):
        read_foreign(out)


def test_a_folder_of_other_things_is_none_of_theirs(tmp_path):
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "model.safetensors").write_text("")
    assert not is_foreign(tmp_path)
    assert not is_foreign(tmp_path / "absent")
