"""CLIP's text model, in the layouts of transformers and OpenCLIP, gives the numbers of their code."""

import json

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn
from transformers import CLIPTextModel, CLIPTokenizer

from ldm.config import compose, resolved
from ldm.interop.conditioner import names as layouts
from ldm.interop.conditioner.reading import read_text_encoder
from ldm.interop.conditioner.text import TextSource, read_clip, read_open_clip
from ldm.interop.translation import Translation
from tests.interop import checkpoints as made
from tests.interop.conditioner.parts import agree, conditioner_of, refused, tokens_of, without
from tests.interop.conditioner.vocabularies import CAPTIONS, CLIP_SIZE, END, clip_files, clip_folder

WIDTH, LAYERS = 128, 3
PREFIX, OPEN_PREFIX = "cond_stage_model.transformer.", "cond_stage_model.model."


@pytest.fixture
def tokenizer(tmp_path):
    return str(clip_files(tmp_path / "vocabulary"))


def clip_tensors(inner="text_model.", prefix=PREFIX):
    shapes = made.clip(WIDTH, LAYERS, vocabulary=CLIP_SIZE, prefix=prefix + inner)
    return made.tensors_of(shapes)


def open_tensors():
    return made.tensors_of(made.open_clip(WIDTH, LAYERS, vocabulary=CLIP_SIZE, prefix=OPEN_PREFIX))


def config(**changes):
    return {
        "architectures": ["CLIPTextModel"], "model_type": "clip_text_model", "vocab_size": CLIP_SIZE, "hidden_size": WIDTH,
        "intermediate_size": 4 * WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": 2, "hidden_act": "quick_gelu",
        "max_position_embeddings": 77, "layer_norm_eps": 1e-5, "bos_token_id": CLIP_SIZE - 2, "eos_token_id": END,
        "pad_token_id": 1, **changes,
    }  # fmt: skip


def theirs(folder, tensors, **changes):
    """Return transformers' own model, which it reads from a folder with published names."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config(**changes)))
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    model, described = CLIPTextModel.from_pretrained(folder, output_loading_info=True)
    assert not described["missing_keys"]
    assert not described["unexpected_keys"]
    return model.eval()


def ids_of(folder, captions=CAPTIONS, **options):
    tokenizer = CLIPTokenizer.from_pretrained(folder, **options)
    return tokenizer(captions, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids


@pytest.mark.parametrize("inner", ["text_model.", ""], ids=["published", "today"])
@pytest.mark.parametrize("prefix", [PREFIX, ""], ids=["CompVis", "diffusers"])
def test_clip_gives_the_hidden_states_of_transformers(tmp_path, tokenizer, inner, prefix):
    tensors = clip_tensors(inner, prefix)
    given = {**tensors, f"{prefix}{inner}embeddings.position_ids": torch.arange(77)[None]}
    part = read_clip(TextSource(given, prefix, config(), tokenizer))
    assert part.used == set(tensors)
    assert list(part.dropped) == [f"{prefix}{inner}embeddings.position_ids"]
    model = theirs(tmp_path / "model", {f"text_model.{name.removeprefix(prefix + inner)}": tensor
                                        for name, tensor in tensors.items()})  # fmt: skip
    with torch.no_grad():
        expected = model(ids_of(tokenizer)).last_hidden_state
    assert expected.shape == (len(CAPTIONS), 77, WIDTH)
    agree(tokens_of(part, CAPTIONS), expected)
    encoder = conditioner_of(part).encoder
    written = Translation(encoder, layouts.hugging_face_clip(LAYERS, inner=inner), layout="CLIP").write(
        encoder.state_dict()
    )
    assert {prefix + name: 0 for name in written}.keys() == tensors.keys()
    assert all(torch.equal(tensors[prefix + name], tensor) for name, tensor in written.items())


def test_the_activation_is_that_of_the_config(tmp_path, tokenizer):
    tensors = clip_tensors(prefix="")
    quick, exact = (
        tokens_of(read_clip(TextSource(tensors, "", config(hidden_act=act), tokenizer)), CAPTIONS[:2])
        for act in ("quick_gelu", "gelu")
    )
    assert (quick - exact).abs().max() > 1e-3
    model = theirs(tmp_path / "model", tensors, hidden_act="gelu")
    with torch.no_grad():
        agree(exact, model(ids_of(tokenizer, CAPTIONS[:2])).last_hidden_state)


def block(x, own, name, heads):
    """A block of OpenCLIP's text tower, with torch's own attention."""

    def norm(x, which):
        return F.layer_norm(x, x.shape[-1:], own[f"{name}.{which}.weight"], own[f"{name}.{which}.bias"])

    attention = nn.MultiheadAttention(x.shape[-1], heads, batch_first=True)
    attention.load_state_dict(
        {key.removeprefix(f"{name}.attn."): value for key, value in own.items() if f"{name}.attn." in key}
    )
    later = torch.full((x.shape[1], x.shape[1]), float("-inf")).triu(1)
    y = norm(x, "ln_1")
    x = x + attention(y, y, y, need_weights=False, attn_mask=later)[0]
    hidden = F.gelu(F.linear(norm(x, "ln_2"), own[f"{name}.mlp.c_fc.weight"], own[f"{name}.mlp.c_fc.bias"]))
    return x + F.linear(hidden, own[f"{name}.mlp.c_proj.weight"], own[f"{name}.mlp.c_proj.bias"])


def penultimate(tensors, ids):
    """What Stable Diffusion 2 takes of OpenCLIP: all blocks but the last, then the final norm."""
    own = {name.removeprefix(OPEN_PREFIX): tensor for name, tensor in tensors.items()}
    x = own["token_embedding.weight"][ids] + own["positional_embedding"]
    for layer in range(LAYERS - 1):
        x = block(x, own, f"transformer.resblocks.{layer}", WIDTH // 64)
    return F.layer_norm(x, x.shape[-1:], own["ln_final.weight"], own["ln_final.bias"])


def test_open_clip_gives_the_penultimate_layer_and_its_padding_is_an_exclamation_mark(tokenizer):
    tensors = open_tensors()
    part = read_open_clip(TextSource(tensors, OPEN_PREFIX, tokenizer=tokenizer))
    last = {name for name in tensors if f"resblocks.{LAYERS - 1}." in name}
    assert len(last) == 12
    assert set(part.dropped) == last | {f"{OPEN_PREFIX}text_projection", f"{OPEN_PREFIX}logit_scale"}
    assert all(part.dropped.values())
    assert part.used == tensors.keys() - part.dropped.keys()
    captions = CAPTIONS[:2] + ["a cat!"]
    ids = ids_of(tokenizer, captions)
    lengths = (ids == END).int().argmax(1) + 1
    for row, length in zip(ids, lengths):
        row[length:] = 0
    assert lengths.tolist() == [5, 2, 5]
    with torch.no_grad():
        agree(tokens_of(part, captions), penultimate(tensors, ids))


def test_open_clip_gives_the_hidden_states_of_transformers(tmp_path, tokenizer):
    """As the same weights do in the layout of transformers, split by the test."""
    tensors = open_tensors()
    own = {name.removeprefix(OPEN_PREFIX): tensor for name, tensor in tensors.items()}
    split = {
        "text_model.embeddings.token_embedding.weight": own["token_embedding.weight"],
        "text_model.embeddings.position_embedding.weight": own["positional_embedding"],
        "text_model.final_layer_norm.weight": own["ln_final.weight"],
        "text_model.final_layer_norm.bias": own["ln_final.bias"],
    }
    pairs = {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2",
             "attn.out_proj": "self_attn.out_proj"}  # fmt: skip
    for layer in range(LAYERS):
        old, new = f"transformer.resblocks.{layer}", f"text_model.encoder.layers.{layer}"
        for kind in ("weight", "bias"):
            split |= {f"{new}.{to}.{kind}": own[f"{old}.{name}.{kind}"] for name, to in pairs.items()}
            three = own[f"{old}.attn.in_proj_{kind}"].chunk(3)
            split |= {f"{new}.self_attn.{part}_proj.{kind}": value.clone() for part, value in zip("qkv", three)}
    model = theirs(tmp_path / "model", split, hidden_act="gelu")
    captions = ["a red cat", ""]
    with torch.no_grad():
        hidden = model(ids_of(tokenizer, captions, pad_token="!"), output_hidden_states=True).hidden_states[-2]
        expected = model.final_layer_norm(hidden)
    agree(tokens_of(read_open_clip(TextSource(tensors, OPEN_PREFIX, tokenizer=tokenizer)), captions), expected)


def test_an_open_clip_whose_last_layer_is_gone_keeps_the_others(tokenizer):
    """Files that were made of folders of diffusers have neither the last layer nor the projection."""
    tensors = open_tensors()
    whole = read_open_clip(TextSource(tensors, OPEN_PREFIX, tokenizer=tokenizer))
    cut = {name: tensor for name, tensor in tensors.items() if name not in whole.dropped}
    again = read_open_clip(TextSource(cut, OPEN_PREFIX, tokenizer=tokenizer))
    assert again.dropped == {}
    assert again.node == whole.node
    assert again.weights.keys() == whole.weights.keys()
    assert all(torch.equal(again.weights[name], tensor) for name, tensor in whole.weights.items())
    encoder = conditioner_of(again).encoder
    written = Translation(encoder, layouts.open_clip(LAYERS - 1), layout="OpenCLIP").write(encoder.state_dict())
    assert {OPEN_PREFIX + name: 0 for name in written}.keys() == cut.keys()
    assert all(torch.equal(cut[OPEN_PREFIX + name], tensor) for name, tensor in written.items())


def on_meta(shapes):
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


def count(part):
    return sum(tensor.numel() for name, tensor in part.weights.items() if not name.endswith("_extra_state"))


def preset(choice):
    return resolved(compose("train", ["experiment=txt2img", f"conditioner={choice}"]).conditioner)


def test_the_published_clip_has_its_parameters_and_its_preset(tokenizer):
    tensors = on_meta(made.clip(768, 12, vocabulary=49408))
    assert len(tensors) == 196
    part = read_clip(TextSource(tensors, PREFIX, tokenizer=tokenizer))
    assert count(part) == sum(tensor.numel() for tensor in tensors.values()) == 123_060_480
    assert part.node == {**preset("clip_l"), "pad_token": None}
    described = json.loads(bytes(part.weights["_extra_state"].tolist()))["encoder"]
    assert (described["num_attention_heads"], described["hidden_act"], described["num_hidden_layers"]) == (
        12,
        "quick_gelu",
        12,
    )


@pytest.mark.parametrize("present", [24, 23])
@pytest.mark.parametrize("projection", [True, False])
def test_the_published_open_clip_has_its_parameters_and_its_preset(tokenizer, present, projection):
    tensors = on_meta(made.open_clip(1024, present, vocabulary=49408))
    if not projection:
        tensors = {name: value for name, value in tensors.items() if "text_projection" not in name}
    part = read_open_clip(TextSource(tensors, OPEN_PREFIX, tokenizer=tokenizer))
    assert count(part) == 340_387_840
    assert part.node == preset("openclip_h")
    assert part.used | part.dropped.keys() == tensors.keys()
    described = json.loads(bytes(part.weights["_extra_state"].tolist()))["encoder"]
    assert (described["num_attention_heads"], described["hidden_act"], described["num_hidden_layers"]) == (
        16,
        "gelu",
        23,
    )


def test_a_pipeline_of_stable_diffusion_2_has_the_same_preset(tmp_path):
    folder = clip_folder(tmp_path, pad_token="!")
    tensors = on_meta(made.clip(1024, 23, vocabulary=49408, prefix="text_model."))
    said = config(hidden_act="gelu", num_attention_heads=16, num_hidden_layers=23)
    part = read_text_encoder(tensors, said, tokenizer=str(folder))
    assert part.node == {**preset("openclip_h"), "pad_token": None}
    held = json.loads(json.loads(bytes(part.weights["_extra_state"].tolist()))["tokenizer"])
    assert (held["padding"]["pad_id"], held["padding"]["pad_token"]) == (0, "!")
    assert held["padding"]["strategy"] == {"Fixed": 77}
    assert held["truncation"]["max_length"] == 77


def test_what_is_missing_misshaped_or_left_over_is_named(tmp_path, tokenizer):
    tensors = clip_tensors()
    name = f"{PREFIX}text_model.encoder.layers.1.self_attn.k_proj.bias"
    with refused(f"missing: {name}"):
        read_clip(TextSource(without(tensors, name), PREFIX, tokenizer=tokenizer))
    with refused(r"k_proj.bias has the shape \(5,\), which does not give \(128,\)"):
        read_clip(TextSource({**tensors, name: torch.zeros(5)}, PREFIX, tokenizer=tokenizer))
    fused = f"{OPEN_PREFIX}transformer.resblocks.0.attn.in_proj_weight"
    with refused(f"missing: {fused}"):
        read_open_clip(TextSource(without(open_tensors(), fused), OPEN_PREFIX, tokenizer=tokenizer))
    with refused("10 rows are not queries, keys and values"):
        read_open_clip(TextSource({**open_tensors(), fused: torch.zeros(10, 128)}, OPEN_PREFIX, tokenizer=tokenizer))
    with refused("1 tensors belong to nothing that is known here: text_model.more"):
        read_text_encoder({**clip_tensors(prefix=""), "text_model.more": torch.zeros(1)}, config(), tokenizer=tokenizer)
    with refused("the text encoder is a T5EncoderModel, which cannot be read"):
        read_text_encoder({}, {"architectures": ["T5EncoderModel"], "model_type": "t5"}, tokenizer=tokenizer)
    small = made.tensors_of(made.clip(64, 1, vocabulary=400))
    with refused(f"has {CLIP_SIZE} tokens, but the text encoder knows 400; give tokenizer=FOLDER"):
        read_clip(TextSource(small, PREFIX, tokenizer=tokenizer))
    with pytest.raises(FileNotFoundError, match="openai/clip-vit-large-patch14.*merges.txt.*give tokenizer=FOLDER"):
        read_clip(TextSource(tensors, PREFIX, {"hidden_act": "quick_gelu"}))
