"""Conditioners without text: classes, maps of classes, and nothing."""

import pytest
import torch
import torch.nn.functional as F

from ldm.config import compose, resolved
from ldm.interop.conditioner.reading import label_table, read_compvis_conditioner
from tests.interop.conditioner.parts import conditioner_of


def read(kind, tensors, experiment):
    node = resolved(compose("train", [f"experiment={experiment}"]).conditioner)
    part = read_compvis_conditioner(kind, tensors, prefix="cond_stage_model.", node=node, tokenizer=None)
    assert part.used == set(tensors)
    assert not part.dropped
    return part


@pytest.mark.parametrize(
    ("experiment", "rows", "classes"),
    [("cin256_v2", 1001, 1000), ("cin256", 1000, 1000), ("cin256_v2", 11, 10), ("cin256", 1001, 1000)],
)
def test_each_class_has_its_row_and_the_last_one_is_none_unless_all_are_classes(experiment, rows, classes):
    table = torch.randn(rows, 512)
    part = read("label", {"cond_stage_model.embedding.weight": table}, experiment)
    conditioner = conditioner_of(part)
    labels = {"label": torch.tensor([0, 3, classes - 1])}
    conditioner.check(labels)
    assert torch.equal(conditioner(labels).tokens[:, 0], table[[0, 3, classes - 1]])
    assert torch.equal(label_table(part.weights), table)
    nothing = conditioner.null(labels).tokens[:, 0]
    if rows == classes:
        assert torch.equal(nothing, table[[0, 3, classes - 1]]), "the model has no unconditional row"
    else:
        assert torch.equal(nothing, table[[-1]].expand(3, -1))
        assert conditioner.drop_rate == 0.1


def test_a_map_of_classes_is_that_of_the_formulas():
    """Halved bilinearly, twice, and then through a convolution without a bias."""
    mapper = torch.randn(3, 182, 1, 1)
    part = read("segmentation", {"cond_stage_model.channel_mapper.weight": mapper}, "semantic_synthesis256")
    conditioner = conditioner_of(part)
    classes = torch.randint(0, 182, (2, 32, 48))
    found = conditioner({"segmentation": classes, "latent_size": torch.tensor([[8, 12]] * 2)}).concat
    maps = F.one_hot(classes, 182).permute(0, 3, 1, 2).float()
    for _ in range(2):
        maps = F.interpolate(maps, scale_factor=0.5, mode="bilinear")
    torch.testing.assert_close(found, F.conv2d(maps, mapper), atol=1e-5, rtol=0)


@pytest.mark.parametrize("experiment", ["celeba256", "bsr_sr", "inpainting_big"])
def test_nothing_is_read_of_conditioners_without_weights(experiment):
    part = read("none", {}, experiment)
    assert not part.weights
    conditioner_of(part)
