"""Images that are not square, from the shards to the metrics."""

from types import SimpleNamespace

import torch

from ldm.callback.evaluation import Evaluation
from ldm.config import build, compose, resolved
from ldm.data.shards.names import write_shards
from ldm.metric.caption import CaptionAccuracy
from tests.conditioner.test_conditioner import CAPTIONS, said
from tests.conftest import scramble
from tests.data.small_shards import captioned, icons, read_all, sample

SMALL = [
    "experiment=txt2img", "name=x", "backbone.model_channels=16", "backbone.groups=8", "backbone.head_channels=16",
    "autoencoder.network.channels=8", "autoencoder.network.groups=4", "conditioner.width=16", "sampler.steps=2",
]  # fmt: skip


def small_model(size):
    model = build(resolved(compose("train", [*SMALL, f"data.size={size}"]).model))
    model.conditioner.prepare([said(CAPTIONS)])
    scramble(model.denoiser)
    return model


def test_batches_of_buckets_train(tmp_path):
    """Each batch is of one shape, and any of them gives a loss and gradients."""
    shapes = {"square": (64, 64), "wide": (96, 48), "tall": (40, 100)}
    samples = [sample(f"{name}-{i}", size=size, txt=b"x") for i in range(8) for name, size in shapes.items()]
    write_shards(samples, tmp_path, "train", samples_per_shard=9)
    data = captioned(
        tmp_path, train=f"{tmp_path}/train*", val=f"{tmp_path}/train*", size=[24, 40], crop="random",
        buckets={"multiple": 8, "max_ratio": 2.0},
    )  # fmt: skip
    data.set_batch(4, 1, 1)
    model, seen = small_model("[24,40]"), set()
    for batch in read_all(data):
        model.zero_grad()
        loss = model.loss(batch)
        loss.mean().backward()
        assert loss.shape == (4,)
        assert all(part.grad.isfinite().all() for part in model.denoiser.parameters())
        shape = tuple(batch.fields["image"].shape[2:])
        assert batch.fields["geometry"][:, 4:].tolist() == [[*shape]] * 4
        seen.add(shape)
    assert seen == {(24, 40), (40, 24)}
    val = next(iter(data.val_dataloader()))
    assert val.fields["image"].shape == (4, 3, 24, 40)
    assert model.loss(val).isfinite().all()


def test_evaluation_makes_and_measures_images_of_the_size_of_the_data(tmp_path):
    source = icons(tmp_path, size=[16, 24])
    data = captioned(tmp_path, size=[16, 24], source=source)
    metric = CaptionAccuracy(source)
    evaluation = Evaluation({"a": metric}, num_images=3, batch_size=2, cache=tmp_path)
    trainer = SimpleNamespace(
        global_rank=0, world_size=1, datamodule=data, checkpoint_callbacks=[], sanity_checking=False
    )
    shown = evaluation._generate(trainer, small_model("[16,24]"), 3)
    assert shown.shape == (3, 3, 16, 24)
    assert 0.0 <= metric.compute()["caption_accuracy"] <= 1.0
    metric.update(source.images(source.val), {"caption": [drawing.caption for drawing in source.val]})
    assert metric.compute()["caption_accuracy"] == 1.0
    assert torch.isfinite(shown).all()
