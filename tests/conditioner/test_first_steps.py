"""The first steps of training of each model of the embedded icons, on true fields: all that is trained moves."""

import pytest
import torch
import torch.nn.functional as F

from ldm.batch import Batch
from ldm.config import CONFIGS, build
from ldm.data.sources.icon_scenes import IconScenes
from tests.cases import mostly_slow
from tests.configs import composed

EXPERIMENTS = sorted(path.stem for path in (CONFIGS / "experiment").glob("*_icons.yaml"))
COUNT = 4

IDLE = ("key.weight", "key.bias", "query.weight", "norm_cross.weight", "norm_cross.bias")
"""Of attention to a single token, which gets all weight; a bias of keys never changes what softmax gives."""


def fields_of(source):
    """Return the fields of some training images of an embedded data set, also those that are computed."""
    if isinstance(source, IconScenes):
        return source.truth(source.train[:COUNT])
    drawings = source.train[:: len(source.train) // COUNT][:COUNT]
    image = source.images(drawings)
    mask = torch.zeros(COUNT, 1, *image.shape[2:])
    mask[:, :, 8:24, 8:24] = 1.0
    return {
        "image": image,
        "caption": [drawing.caption for drawing in drawings],
        "label": torch.tensor([source.label(drawing) for drawing in drawings]),
        "low_resolution": F.interpolate(image, scale_factor=0.25, mode="area"),
        "mask": mask,
        "neighbors": torch.randn(COUNT, 5, 1280),
    }


@pytest.mark.parametrize("name", mostly_slow(EXPERIMENTS, ["class_icons", "inpainting_icons", "layout_icons"]))
def test_all_that_is_trained_moves(name, tmp_path):
    config = composed("train", f"experiment={name}", "debug=tiny", f"paths.data_dir={tmp_path}")
    icons = composed("train", "experiment=class_icons", "debug=tiny")
    source = build((config if "_target_" in config.data.source else icons).data.source)
    model = build(config.model).train()
    fields = fields_of(source)
    model.conditioner.prepare([fields])
    trained = {part: value for part, value in model.named_parameters() if value.requires_grad}
    before = {part: value.detach().clone() for part, value in trained.items()}
    optimizer = torch.optim.AdamW(trained.values(), lr=1e-3, weight_decay=0.0)
    for _ in range(
        3
    ):  # the last layers of the network and of its blocks begin at zero, and let no gradient through until they moved
        model.conditioner.check(fields)
        loss = model.loss(Batch([str(number) for number in range(COUNT)], fields)).mean()
        assert loss.isfinite()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert [part for part, value in trained.items() if value.grad is None] == []
    still = [part for part, value in trained.items() if torch.equal(value, before[part])]
    assert [part for part in still if not part.endswith(IDLE)] == []
