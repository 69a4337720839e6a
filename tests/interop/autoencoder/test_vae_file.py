"""Autoencoders as people share them: with and without prefixes and configs, in half precision, with what lies beside them."""

import logging

import pytest
import torch
from diffusers import AutoencoderKL

from ldm.config import build_trusted
from ldm.interop.autoencoder import compvis, diffusers, vae_file
from tests.interop.autoencoder.published import FLUX_VAE, PUBLISHED, SD_VAE, Published, compvis_shapes
from tests.interop.autoencoder.tiny import TINY, images, network_of, random_autoencoder, random_tensors

SMALL = Published(4, (1, 2, 3, 3), (1,), blocks=1, ch=32)
SMALL_VQ = SMALL._replace(codes=48)
BESIDE = ["loss.logvar", "loss.discriminator.main.0.weight", "model_ema.num_updates"]


def prefixed(tensors):
    return {f"first_stage_model.{name}": tensor for name, tensor in tensors.items()}


def check_whole(part, shape, scale):
    """Assert that a part has all weights of the network that its node builds, which then counts as finished."""
    network = build_trusted(part.node)
    network.load_state_dict(part.weights)
    assert torch.equal(network.scale, torch.full((shape,), scale))
    assert not network.shift.any()
    assert network.statistics_count == 1
    return network


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("model", "scale"), [(SMALL, 0.18215), (SMALL_VQ, 1.0)])
def test_a_file_of_compvis_is_read_and_all_its_tensors_are_accounted_for(model, scale, dtype, wrapped):
    own = random_tensors(compvis_shapes(model), dtype)
    file = own | {name: torch.zeros(1) for name in BESIDE}
    part = vae_file.read({"state_dict": file, "global_step": 3, "callbacks": {}} if wrapped else file)
    assert part.used == set(own)
    assert set(part.dropped) == set(BESIDE)
    check_whole(part, 4, scale)
    buffers = {"shift", "scale", "statistics_count"}
    assert {tensor.dtype for name, tensor in part.weights.items() if name not in buffers} == {dtype}
    table = compvis.translation(part.node)
    assert all(torch.equal(tensor, own[name]) for name, tensor in table.write(part.weights).items())


def test_the_autoencoder_of_a_checkpoint_is_read_and_the_rest_is_left_alone():
    own = prefixed(random_tensors(compvis_shapes(SMALL)))
    beside = {"model.diffusion_model.time_embed.0.weight": torch.zeros(2), "model_ema.decay": torch.zeros(1)}
    part = vae_file.read({"state_dict": own | beside | {"first_stage_model.loss.logvar": torch.zeros(1)}})
    assert part.used == set(own)
    assert set(part.dropped) == {"first_stage_model.loss.logvar"}
    check_whole(part, 4, 0.18215)


def test_the_scale_of_a_checkpoint_counts_unless_another_is_given():
    file = prefixed(random_tensors(compvis_shapes(SMALL))) | {"scale_factor": torch.tensor(0.3)}
    part = vae_file.read(file)
    check_whole(part, 4, 0.3)
    assert part.used == set(file)
    given = vae_file.read(file, scale=0.25)
    check_whole(given, 4, 0.25)
    assert given.used == set(file) - {"scale_factor"}


def test_the_autoencoder_of_stable_diffusion_is_read_whole():
    shapes = compvis_shapes(PUBLISHED["kl_f8"])
    part = vae_file.read({name: torch.empty(shape, device="meta") for name, shape in shapes.items()})
    with torch.device("meta"):
        wanted = network_of(part.node).state_dict()
    assert {name: tensor.shape for name, tensor in part.weights.items()} == {
        name: tensor.shape for name, tensor in wanted.items()
    }
    torch.testing.assert_close(part.weights["scale"], torch.full((4,), 0.18215))
    with torch.device("meta"):
        theirs = AutoencoderKL.from_config(SD_VAE).state_dict()
    again = vae_file.read(theirs, config=SD_VAE)
    assert again.node == part.node
    assert again.used == set(theirs)


@pytest.mark.parametrize("name", ["kl", "vq"])
@pytest.mark.parametrize("with_config", [True, False])
def test_a_file_of_diffusers_is_read_with_its_config_or_without(name, with_config):
    network = random_autoencoder(TINY[name])
    tensors = diffusers.translation(TINY[name]).write(network.state_dict())
    config = diffusers.config(TINY[name], scaling_factor=0.7, sample_size=32) if with_config else None
    part = vae_file.read(tensors, config=config, scale=None if with_config else 0.7)
    assert part.node == {"_target_": "ldm.autoencoder.convolutional.ConvAutoencoder", **TINY[name]}
    assert part.used == set(tensors)
    assert not part.dropped
    read = check_whole(part, 4, 0.7)
    with torch.no_grad():
        assert torch.equal(read.encode_moments(images()), network.encode_moments(images()))
    check_whole(vae_file.read(tensors, config=config, scale=0.9), 4, 0.9)


def test_older_names_of_diffusers_are_accounted_for_as_they_are_in_the_file():
    tensors = diffusers.translation(TINY["kl"]).write(random_autoencoder(TINY["kl"]).state_dict())
    older = {name.replace(".to_out.0.", ".proj_attn."): tensor for name, tensor in tensors.items()}
    assert vae_file.read(older, scale=1.0).used == set(older) != set(tensors)


@pytest.mark.parametrize("with_config", [True, False])
def test_layers_that_the_file_does_without_are_the_identity_and_said(caplog, with_config):
    config = FLUX_VAE | {"block_out_channels": [32, 32], "layers_per_block": 1}
    config |= {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}
    theirs = AutoencoderKL.from_config(config).eval()
    tensors = theirs.state_dict()
    assert not [name for name in tensors if "quant_conv" in name]
    with caplog.at_level(logging.INFO):
        part = vae_file.read(tensors, config=config if with_config else None, scale=None if with_config else 0.3611)
    assert "no quant_conv" in caplog.text
    assert "no post_quant_conv" in caplog.text
    assert part.used == set(tensors)
    network = build_trusted(part.node).eval()
    network.load_state_dict(part.weights)
    torch.testing.assert_close(network.scale, torch.full((16,), 0.3611))
    torch.testing.assert_close(network.shift, torch.full((16,), 0.1159 if with_config else 0.0))
    with torch.no_grad():
        dist = theirs.encode(images()).latent_dist
        torch.testing.assert_close(network.encode_moments(images()), dist.parameters, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(network.decode(dist.mean), theirs.decode(dist.mean).sample, atol=1e-5, rtol=1e-5)


def test_a_missing_layer_that_the_config_asks_for_is_an_error_and_so_is_one_that_it_does_not():
    tensors = diffusers.translation(TINY["kl"]).write(random_autoencoder(TINY["kl"]).state_dict())
    config = diffusers.config(TINY["kl"], scaling_factor=0.7, sample_size=32)
    without = {name: tensor for name, tensor in tensors.items() if not name.startswith("quant_conv")}
    with pytest.raises(ValueError, match=r"missing: quant_conv\.weight, quant_conv\.bias"):
        vae_file.read(without, config=config)
    with pytest.raises(ValueError, match="use_quant_conv=False .* quant_conv is among the tensors"):
        vae_file.read(tensors, config=config | {"use_quant_conv": False})
    for lost in ("quant_conv.weight", "quant_conv.bias"):  # half a layer is not none
        with pytest.raises(ValueError, match=lost):
            vae_file.read({name: tensor for name, tensor in tensors.items() if name != lost}, scale=1.0)


@pytest.mark.parametrize("layout", ["compvis", "prefixed", "diffusers"])
def test_missing_left_over_and_misshaped_tensors_are_named_as_they_are_in_the_file(layout):
    module = diffusers if layout == "diffusers" else compvis
    own = module.translation(TINY["kl"]).write(random_autoencoder(TINY["kl"]).state_dict())
    start = "first_stage_model." if layout == "prefixed" else ""
    file = {start + name: tensor for name, tensor in own.items()}
    lost = start + "decoder.conv_in.bias"
    with pytest.raises(ValueError, match=f"missing: {lost}"):
        vae_file.read({name: tensor for name, tensor in file.items() if name != lost}, scale=1.0)
    with pytest.raises(ValueError, match=rf"left over, .*: {start}quantize\.used"):
        vae_file.read(file | {start + "quantize.used": torch.zeros(3)}, scale=1.0)
    with pytest.raises(ValueError, match=rf"{start}decoder\.conv_in\.bias has the shape \(5,\)"):
        vae_file.read(file | {lost: torch.zeros(5)}, scale=1.0)


def test_without_a_customary_scale_one_must_be_given():
    tensors = random_tensors(compvis_shapes(SMALL._replace(ch_mult=(1, 2))))
    with pytest.raises(ValueError, match=r"f=2, 4 channels.*give scale="):
        vae_file.read(tensors)
    check_whole(vae_file.read(tensors, scale=0.5), 4, 0.5)
    with pytest.raises(ValueError, match="f=8, 16 channels"):
        vae_file.read(random_tensors(compvis_shapes(SMALL._replace(z_channels=16))))
    with pytest.raises(ValueError, match="scale=-1 is not a positive number"):
        vae_file.read(tensors, scale=-1)


@pytest.mark.parametrize("file", [{}, {"state_dict": {}}, {"encoder.conv_in.weight": torch.zeros(1)}, {"step": 3}])
def test_files_without_an_autoencoder_are_refused(file):
    with pytest.raises(ValueError, match="no autoencoder found; tried the layout of CompVis, .* diffusers"):
        vae_file.read(file)


def test_a_config_of_diffusers_does_not_belong_to_the_layout_of_compvis():
    with pytest.raises(ValueError, match="config= is for the layout of diffusers"):
        vae_file.read(random_tensors(compvis_shapes(SMALL)), config=SD_VAE)
