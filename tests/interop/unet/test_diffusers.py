"""The U-Net of diffusers: with the same weights theirs and ours give the same numbers, and tensors come back unchanged."""

import pytest
import torch
from diffusers import UNet2DConditionModel, UNet2DModel

from ldm.backbone.unet import UNet
from ldm.batch import Condition
from ldm.interop.unet.diffusers import is_unet, renamed, translation
from ldm.interop.unet.diffusers_config import unet_config, unet_options, uses_linear
from tests.interop.unet.test_compvis import SMALL, telling

WIDE = {"channel_mult": [1, 2, 4], "heads": None, "head_channels": 16}
"""Levels of three widths, with heads of the same channels: 2, 4 and 8 of them."""

CASES = {
    "tokens": ({}, False),
    "levels": ({**WIDE, "attention_levels": [0, 1], "blocks": 2}, True),
    "linear": ({"heads": None, "head_channels": 16, "depth": 2}, True),
    "vector": ({"vector_width": 7, "scale_shift": True}, False),
    "beside": ({"concat_channels": 2}, False),
    "alone": ({"context_width": None, "heads": None, "head_channels": 16}, False),
    "residual": (
        {"context_width": None, "scale_shift": True, "residual_resampling": True, "heads": None, "head_channels": 16},
        False,
    ),
    "residual-high": ({**WIDE, "context_width": None, "residual_resampling": True, "attention_levels": [0, 1]}, False),
    "residual-low": ({**WIDE, "context_width": None, "residual_resampling": True, "attention_levels": [2]}, False),
    "one-head": ({"context_width": None, "channel_mult": [1, 2, 4], "attention_levels": [0, 1], "heads": 1}, False),
    "indivisible": ({"context_width": None, "heads": None, "head_channels": 48}, False),
}


@pytest.fixture(params=CASES)
def case(request):
    """Return options of ours, whether projections are linear, our network, and theirs with the same weights."""
    change, linear = CASES[request.param]
    options = {**SMALL, **change}
    ours = telling(UNet(**options)).eval()
    config = unet_config(options, sample_size=8, linear=linear)
    kind = UNet2DConditionModel if options["context_width"] else UNet2DModel
    theirs = kind.from_config(config).eval()
    theirs.load_state_dict(translation(options, linear=linear).write(ours.state_dict()))
    return options, linear, ours, theirs


def test_both_give_the_same_numbers(case):
    options, _, ours, theirs = case
    beside = options.get("concat_channels", 0)
    x, concat = torch.randn(2, 4, 8, 8), torch.randn(2, beside, 8, 8)
    tokens = torch.randn(2, 5, 24) if options["context_width"] else None
    vector = torch.randn(2, 7) if options.get("vector_width") else None
    steps = torch.tensor([3, 712])
    inputs = torch.cat([x, concat], dim=1)
    with torch.no_grad():
        condition = () if tokens is None else (tokens, vector)
        expected = theirs(inputs, steps, *condition).sample
        got = ours(x, (steps + 1) / 1000, Condition(tokens=tokens, vector=vector, concat=concat if beside else None))
    assert expected.std() > 0.1
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)


def test_their_config_gives_our_options_and_their_weights_ours(case):
    options, linear, ours, theirs = case
    found = unet_options(dict(theirs.config))
    assert uses_linear(theirs.config) == linear
    weights = theirs.state_dict()
    assert is_unet(weights)
    reading = translation(found, linear=linear).read(weights)
    assert reading.used == set(weights)
    assert all(torch.equal(reading.weights[name], tensor) for name, tensor in ours.state_dict().items())
    with torch.device("meta"):
        again = UNet(**found)
    assert {name: tensor.shape for name, tensor in again.state_dict().items()} == {
        name: tensor.shape for name, tensor in ours.state_dict().items()
    }
    written = unet_config(found, sample_size=8, linear=linear)
    expected = unet_config(options, sample_size=8, linear=linear)
    assert written == expected
    attention = [part.heads for part in ours.modules() if hasattr(part, "heads")]
    assert [part.heads for part in again.modules() if hasattr(part, "heads")] == attention


def test_an_embedding_of_the_mean_token_is_theirs_of_a_class():
    options = {**SMALL, "pool_tokens": True}
    ours = telling(UNet(**options)).eval()
    theirs = UNet2DConditionModel.from_config(unet_config(options, sample_size=8, linear=False)).eval()
    theirs.load_state_dict(translation(options, linear=False).write(ours.state_dict()))
    x, steps, mask = torch.randn(2, 4, 8, 8), torch.tensor([3, 712]), torch.ones(2, 5, dtype=torch.bool)
    condition = Condition(tokens=torch.randn(2, 5, 24), mask=mask)
    with torch.no_grad():
        expected = theirs(x, steps, condition.tokens, condition.mean_token()).sample
        got = ours(x, (steps + 1) / 1000, condition)
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_numbers_come_back_unchanged(name, dtype):
    change, linear = CASES[name]
    table = translation({**SMALL, **change}, linear=linear)
    ours = {name: torch.randn(shape).to(dtype) for name, shape in table.shapes.items()}
    theirs = table.write(ours)
    assert all(tensor.dtype == dtype and tensor.is_contiguous() for tensor in theirs.values())
    again = table.read(theirs).weights
    assert again.keys() == ours.keys()
    assert all(torch.equal(again[name], ours[name]) and again[name].dtype == dtype for name in ours)
    written = table.write(again)
    assert list(written) == list(theirs)
    assert all(torch.equal(written[name], theirs[name]) for name in theirs)


def test_two_embeddings_have_no_place_in_their_one():
    with pytest.raises(ValueError, match=r"no place for backbone.pool_tokens and backbone.vector_width"):
        translation({**SMALL, "pool_tokens": True, "vector_width": 7}, linear=False)


def test_a_network_of_an_old_file_is_read_as_one_of_today():
    options = {**SMALL, "context_width": None}
    table = translation(options, linear=False)
    ours = {name: torch.randn(shape) for name, shape in table.shapes.items()}
    old = {}
    for name, tensor in table.write(ours).items():
        for today, before in {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}.items():
            name = name.replace(f".{today}.", f".{before}.")
        is_matrix = name.endswith(("query.weight", "key.weight", "value.weight", "proj_attn.weight"))
        old[name] = tensor[:, :, None, None] if is_matrix else tensor
    assert sum("query" in name for name in old) == 8  # weight and bias, at one place down, one in the middle and two up
    reading = table.read(renamed(old))
    assert all(torch.equal(reading.weights[name], tensor) for name, tensor in ours.items())


def test_names_of_old_files_are_those_of_today():
    old = {
        "down_blocks.1.attentions.0.query.weight": torch.randn(8, 8, 1, 1),
        "mid_block.attentions.0.proj_attn.bias": torch.randn(8),
        "conv_in.weight": torch.randn(8, 4, 3, 3),
    }
    found = renamed(old)
    assert torch.equal(
        found["down_blocks.1.attentions.0.to_q.weight"], old["down_blocks.1.attentions.0.query.weight"][..., 0, 0]
    )
    assert found["mid_block.attentions.0.to_out.0.bias"] is old["mid_block.attentions.0.proj_attn.bias"]
    assert found["conv_in.weight"] is old["conv_in.weight"]
