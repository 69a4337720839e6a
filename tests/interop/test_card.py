"""The model card of an exported model."""

import pytest
import torch
from diffusers import UNet2DConditionModel
from omegaconf import OmegaConf
from safetensors.torch import load_file

from ldm.config import CONFIGS, build, class_name
from ldm.interop.export.card import CONDITIONS
from ldm.interop.export.diffusers import DiffusersFormat
from ldm.interop.export.program import export
from ldm.interop.reading import read_foreign
from tests.interop.test_compvis_checkpoint import written


def classes(folder, *, pooled):
    """Export a model of classes with random weights, and return it and its card."""
    file, _, request = written(folder, "label")
    found = read_foreign(file, request)
    denoiser = found.config["denoiser"]
    node = {**found.config, "denoiser": {**denoiser, "backbone": {**denoiser["backbone"], "pool_tokens": pooled}}}
    torch.manual_seed(0)
    model = build(node).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2)
    export(node, model.state_dict(), DiffusersFormat(), str(folder / "out"), name="mine")
    return model, (folder / "out" / "README.md").read_text()


@pytest.mark.parametrize("pooled", [False, True])
def test_a_class_is_given_to_the_unet_as_the_card_says(tmp_path, pooled):
    model, card = classes(tmp_path, pooled=pooled)
    assert "| condition | a class |" in card
    assert "caption" not in card
    row = load_file(tmp_path / "out" / "conditioner" / "conditioner.safetensors")["embed.weight"][[3, 5]]
    assert "its row is the only token, `encoder_hidden_states` of shape `(B, 1, width)`" in card
    assert ("and the vector, `class_labels` of shape `(B, width)`" in card) == pooled
    unet = UNet2DConditionModel.from_pretrained(tmp_path / "out", subfolder="unet")
    latent, steps = torch.randn(2, 4, 8, 8), torch.tensor([199, 699])
    with torch.no_grad():
        theirs = unet(latent, steps, row[:, None], class_labels=row if pooled else None).sample
        condition = model.conditioner({"label": torch.tensor([3, 5])})
        torch.testing.assert_close(
            model.denoiser.backbone(latent, (steps + 1) / 1000, condition), theirs, atol=1e-4, rtol=1e-4
        )


def test_every_conditioner_has_words():
    """The condition of a model is described in words, and not by the name of a class of this package."""
    files = (CONFIGS / "conditioner").glob("*.yaml")
    kinds = {class_name(OmegaConf.to_container(OmegaConf.load(file))) for file in files}
    assert kinds - {"Composite"} == CONDITIONS.keys()
