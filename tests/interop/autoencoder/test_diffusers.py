"""Autoencoders of diffusers: the same numbers by its own classes, its published configs, round trips, refusals."""

import pytest
import torch
from diffusers import AutoencoderKL, VQModel

from ldm.interop.autoencoder import diffusers
from tests.cases import mostly_slow
from tests.interop.autoencoder.published import FLUX_VAE, LDM_VQ, PUBLISHED, SD_VAE
from tests.interop.autoencoder.test_compvis import node_of
from tests.interop.autoencoder.tiny import TINY, images, random_autoencoder

CLASSES = {"AutoencoderKL": AutoencoderKL, "VQModel": VQModel}


def config_of(options):
    return diffusers.config(options, scaling_factor=0.5, sample_size=32)


def theirs_of(config):
    return CLASSES[config["_class_name"]].from_config(config).eval()


def flat(shapes):
    return {name: tuple(tensor.shape) for name, tensor in shapes.items()}


@pytest.mark.parametrize("name", TINY)
def test_its_own_class_takes_the_tensors_and_computes_the_same(name):
    network, table = random_autoencoder(TINY[name]), diffusers.translation(TINY[name])
    theirs = theirs_of(config_of(TINY[name]))
    theirs.load_state_dict(table.write(network.state_dict()))
    with torch.no_grad():
        moments, expected = network.encode_moments(images()), theirs.encode(images())
        if name == "vq":
            torch.testing.assert_close(moments, expected.latents, atol=1e-5, rtol=1e-5)
            assert len(network.regularizer.nearest(moments).unique()) > 10, "the test would show little of one code"
            decoded = theirs.decode(expected.latents).sample
        else:
            torch.testing.assert_close(moments, expected.latent_dist.parameters, atol=1e-5, rtol=1e-5)
            decoded = theirs.decode(expected.latent_dist.mean).sample
        torch.testing.assert_close(network.decode(network.encode(images()).mean), decoded, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", TINY)
def test_options_and_tensors_come_back(name):
    assert diffusers.options(config_of(TINY[name])) == TINY[name]
    weights, table = random_autoencoder(TINY[name]).state_dict(), diffusers.translation(TINY[name])
    read = table.read(table.write(weights)).weights
    assert set(weights) - set(read) == {"shift", "scale", "statistics_count"}
    assert all(torch.equal(tensor, weights[key]) for key, tensor in read.items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["kl", "vq"])
def test_writing_what_was_read_gives_the_same_bytes(name, dtype):
    tensors = theirs_of(config_of(TINY[name])).to(dtype).state_dict()
    table = diffusers.translation(TINY[name])
    written = table.write(table.read(tensors).weights)
    assert written.keys() == tensors.keys()
    for key, tensor in written.items():
        assert tensor.dtype == dtype
        assert torch.equal(tensor.view(torch.uint8), tensors[key].view(torch.uint8))


@pytest.mark.parametrize("name", mostly_slow(PUBLISHED, ["kl_f8", "vq_f4"]))
def test_the_published_autoencoders_have_the_names_of_its_classes(name):
    options = node_of(name)
    config = diffusers.config(options, scaling_factor=1.0, sample_size=256)
    with torch.device("meta"):
        theirs = theirs_of(config).state_dict()
    table = diffusers.translation(options)
    reading = table.read(theirs)
    assert reading.used == set(theirs) == table.names
    assert flat(table.write(reading.weights)) == flat(theirs)
    assert diffusers.options(config) == options


@pytest.mark.parametrize(("config", "name", "scale"), [(SD_VAE, "kl_f8", 0.18215), (LDM_VQ, "vq_f4", 1.0)])
def test_published_configs_are_those_of_our_autoencoders(config, name, scale):
    assert diffusers.options(config) == node_of(name)
    statistics = diffusers.latent_statistics(config)
    torch.testing.assert_close(statistics["scale"], torch.full((config["latent_channels"],), scale))
    assert not statistics["shift"].any()
    assert statistics["statistics_count"] == 1
    ours = diffusers.config(node_of(name), scaling_factor=scale, sample_size=config["sample_size"])
    known = {key: value for key, value in config.items() if key != "_diffusers_version"}
    assert {key: ours[key] for key in known} == known
    assert {key: value for key, value in theirs_of(ours | known).config.items() if key in ours} == ours


def test_layers_that_newer_autoencoders_leave_out_are_known():
    assert diffusers.layers_left_out(FLUX_VAE) == ["quant_conv", "post_quant_conv"]
    assert diffusers.layers_left_out(FLUX_VAE | {"use_quant_conv": True}) == ["post_quant_conv"]
    assert diffusers.layers_left_out(SD_VAE) == diffusers.layers_left_out(LDM_VQ) == []
    statistics = diffusers.latent_statistics(FLUX_VAE)
    torch.testing.assert_close(statistics["scale"], torch.full((16,), 0.3611))
    torch.testing.assert_close(statistics["shift"], torch.full((16,), 0.1159))


def test_means_and_deviations_of_channels_become_shift_and_scale():
    mean, std = [0.5, -1.0, 0.0, 2.0], [2.0, 0.5, 1.0, 4.0]
    config = SD_VAE | {"latents_mean": mean, "latents_std": std, "scaling_factor": 0.13}
    statistics = diffusers.latent_statistics(config)
    latent = torch.randn(2, 4, 3, 3)
    by_channel = [torch.tensor(value).view(1, 4, 1, 1) for value in (mean, std)]
    raw = latent * by_channel[1] / 0.13 + by_channel[0]  # as the pipelines of diffusers undo it
    ours = (raw - statistics["shift"][:, None, None]) * statistics["scale"][:, None, None]
    torch.testing.assert_close(ours, latent)
    assert torch.equal(diffusers.latent_statistics(config, scale=0.26)["scale"], 2 * statistics["scale"])


@pytest.mark.parametrize("axes", [(), (1,), (1, 1)])
def test_older_names_of_attention_are_read(axes):
    network = random_autoencoder(TINY["kl"])
    table = diffusers.translation(TINY["kl"])
    written = table.write(network.state_dict())
    older = {}
    for name, tensor in written.items():
        old = name
        for new, before in {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}.items():
            old = old.replace(f".{new}.", f".{before}.")
        changed = old != name and name.endswith("weight")
        older[old] = tensor.view(*tensor.shape, *axes) if changed else tensor
    assert set(older) != set(written)
    named = diffusers.renamed(older)
    assert named.keys() == written.keys()
    assert all(torch.equal(tensor, written[name]) for name, tensor in named.items())
    assert diffusers.renamed(written).keys() == written.keys()
    theirs = theirs_of(config_of(TINY["kl"]))
    if not axes:  # its own class renames them likewise
        theirs._fix_state_dict_keys_on_load(older)
        assert older.keys() == named.keys()
        assert all(torch.equal(tensor, named[name]) for name, tensor in older.items())


@pytest.mark.parametrize(
    ("base", "key", "value"),
    [
        (SD_VAE, "_class_name", "AsymmetricAutoencoderKL"),
        (SD_VAE, "in_channels", 1),
        (SD_VAE, "out_channels", 4),
        (SD_VAE, "act_fn", "gelu"),
        (SD_VAE, "block_out_channels", [128, 192, 512, 512]),
        (SD_VAE, "down_block_types", ["DownBlock2D"] * 4),
        (SD_VAE, "down_block_types", ["DownEncoderBlock2D"] * 3),
        (SD_VAE, "up_block_types", ["AttnUpDecoderBlock2D"] + ["UpDecoderBlock2D"] * 3),
        (LDM_VQ, "norm_type", "spatial"),
        (LDM_VQ, "vq_embed_dim", 4),
        (LDM_VQ, "lookup_from_codebook", True),
        (LDM_VQ, "use_quant_conv", False),
        (SD_VAE, "num_vq_embeddings", 8192),
        (SD_VAE, "timestep_spacing", "leading"),
    ],
)
def test_values_that_are_not_ours_are_refused_by_their_key(base, key, value):
    with pytest.raises(ValueError, match=key):
        diffusers.options(base | {key: value})


@pytest.mark.parametrize(
    "changes",
    [
        {"sample_size": 7, "force_upcast": False, "_name_or_path": "x", "act_fn": "swish"},
        {"vq_embed_dim": 3, "norm_type": "group", "scaling_factor": 2.0},
    ],
)
def test_values_that_do_not_matter_are_accepted(changes):
    base = LDM_VQ if "norm_type" in changes else SD_VAE
    assert diffusers.options(base | changes) == diffusers.options(base)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"latents_mean": [0.0] * 4}, "latents_std=None"),
        ({"latents_mean": [0.0] * 4, "latents_std": [1.0] * 4, "shift_factor": 0.1}, "both shift"),
        ({"latents_mean": [0.0] * 3, "latents_std": [1.0] * 3}, "latents_mean=.* 4 channels"),
        ({"latents_mean": [0.0] * 4, "latents_std": [1.0] * 3}, "scale has 3 numbers"),
        ({"scaling_factor": 0.0}, "scale=0.0 is not a positive number"),
    ],
)
def test_contradictory_statistics_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        diffusers.latent_statistics(SD_VAE | changes)


def test_what_the_layout_cannot_hold_is_refused():
    with pytest.raises(ValueError, match="first multiplier is 1"):
        config_of(TINY["kl"] | {"channel_mult": [2, 2]})
    with pytest.raises(ValueError, match="shift_factor=0.1"):
        diffusers.config(TINY["vq"], scaling_factor=1.0, shift_factor=0.1, sample_size=32)
    quantised = TINY["vq"] | {"regularizer": TINY["vq"]["regularizer"] | {"quantized_latents": True}}
    with pytest.raises(ValueError, match="quantized_latents=true"):
        config_of(quantised)
    assert diffusers.config(TINY["kl"], scaling_factor=1.0, shift_factor=0.1, sample_size=32)["shift_factor"] == 0.1


def test_missing_and_misshaped_tensors_are_named():
    table = diffusers.translation(TINY["kl"])
    tensors = table.write(random_autoencoder(TINY["kl"]).state_dict())
    with pytest.raises(ValueError, match=r"missing: decoder\.up_blocks\.1\.attentions\.0\.to_k\.bias"):
        table.read({name: t for name, t in tensors.items() if name != "decoder.up_blocks.1.attentions.0.to_k.bias"})
    with pytest.raises(ValueError, match=r"quant_conv\.weight has the shape \(8, 7, 1, 1\)"):
        table.read(tensors | {"quant_conv.weight": torch.zeros(8, 7, 1, 1)})
