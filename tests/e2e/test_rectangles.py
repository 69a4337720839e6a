"""Images that are not square, from the shards to the metrics."""

import json
from types import SimpleNamespace

import pytest
import torch

from ldm.callback.evaluation import Evaluation
from ldm.checkpoint import read
from ldm.config import build, compose, resolved
from ldm.data.shards.names import write_shards
from ldm.metric.caption import CaptionAccuracy
from ldm.metric.per_image import PerImageMetric
from tests.conditioner.test_conditioner import CAPTIONS, said
from tests.conftest import forked_ranks, scramble
from tests.data.small_shards import captioned, icons, read_all, sample
from tests.metric.measured import Measured

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
    for batches in (data.val_dataloader(), data.training_pass(4)):
        made = {
            key: tuple(image.shape[1:]) for batch in batches for key, image in zip(batch.key, batch.fields["image"])
        }
        assert len(made) == 24, "each once"
        shapes = {(key.partition("-")[0], shape) for key, shape in made.items()}
        assert shapes - {("square", (24, 40)), ("square", (40, 24))} == {("wide", (24, 40)), ("tall", (40, 24))}
    for val in data.val_dataloader():
        assert model.loss(val).isfinite().all()


def wide_and_tall(folder, *, count=6, split="train"):
    """Write shards of images of two shapes that tell by their caption which one, with a box on the left quarter."""
    boxes = json.dumps({"boxes": [{"label": 0, "box": [0.0, 0.0, 0.25, 1.0]}]}).encode()
    shapes = {"wide": (80, 40), "tall": (40, 80)}
    samples = [
        sample(f"{name}-{i}", number=40 * i, size=size, txt=name.encode(), json=boxes)
        for i in range(count)
        for name, size in shapes.items()
    ]
    write_shards(samples, folder, split, samples_per_shard=count)
    return f"{folder}/{split}-*.tar"


class Shapes(PerImageMetric):
    """A metric that notes of which shape images and fields are."""

    inputs = ("caption", "boxes")

    def __init__(self):
        super().__init__([])
        self.seen = []

    def measure(self, images, fields):
        rows = zip(images, fields["caption"], fields["boxes"], strict=True)
        self.seen += [(caption, tuple(image.shape[1:]), boxes[0].tolist()) for image, caption, boxes in rows]
        return {}


@pytest.mark.parametrize("world", [1, 2])
def test_evaluation_makes_each_image_in_the_bucket_of_its_caption(tmp_path, world):
    """With the fields that lie on the image where they lie in that bucket, and the seed that it has without buckets."""
    shards = wide_and_tall(tmp_path)
    buckets = {"multiple": 8, "max_ratio": 2.0}
    data = captioned(tmp_path, train=shards, val=shards, size=32, buckets=buckets)
    data.need(["caption", "boxes"])
    data.open()
    squares = captioned(tmp_path, train=shards, val=shards, size=32)
    assert data.fingerprint.startswith(squares.fingerprint)
    assert data.fingerprint != squares.fingerprint, "sums over other images"
    model, shown, seeds = small_model("32"), [], []
    sampled = model.sample
    model.sample = lambda fields, **options: seeds.append(options["seeds"]) or sampled(fields, **options)
    metric = Shapes()
    for rank in range(world):
        evaluation = Evaluation({"a": metric}, num_images=9, batch_size=2, cache=tmp_path, seed=5)
        trainer = SimpleNamespace(
            global_rank=rank, world_size=world, datamodule=data, checkpoint_callbacks=[], sanity_checking=False
        )
        shown.append(evaluation._generate(trainer, model, 9)[0])
    assert {(caption, shape) for caption, shape, _ in metric.seen} == {("wide", (24, 40)), ("tall", (40, 24))}
    for caption, _, box in metric.seen:
        assert box == pytest.approx([0.0, 0.0, 0.0, 0.25 if caption == "tall" else 0.2, 1.0]), "of 48 columns 4 are cut"
    assert sorted(seed for some in seeds for seed in some) == list(range(5, 14))
    assert all(part.shape[1:] == (3, 40, 40) for part in shown), "on white, side by side"
    assert sum(map(len, shown)) == 9


def test_a_model_that_cannot_divide_a_bucket_is_refused(tmp_path):
    shards = wide_and_tall(tmp_path)
    data = captioned(tmp_path, train=shards, val=shards, size=32, buckets={"multiple": 4, "max_ratio": 2.0})
    model = small_model("32")
    assert model.size_multiple == 8
    with pytest.raises(ValueError, match=r"is not a multiple of 8, .*set data.buckets.multiple to the number"):
        data.check_sizes(model.check_size)
    captioned(tmp_path, train=shards, val=shards, size=32).check_sizes(model.check_size)


@pytest.mark.e2e
def test_two_processes_train_and_measure_both_stages_on_rectangles(tmp_path):
    """The last batches of buckets differ in number between the ranks, and none waits for the other."""
    shards = wide_and_tall(tmp_path / "shards", count=9)
    forked_ranks(
        "train.py", "experiment=txt2img", "debug=tiny", "data=shards", f"data.train={shards}", f"data.val={shards}",
        "data.size=32", "data.buckets={multiple:8,max_ratio:2}", "data.workers=0", "metric=offline", "trainer=ddp",
        "trainer.accelerator=cpu", "trainer.devices=2", "stage.autoencoder.batch_size=4", "stage.diffusion.batch_size=4",
        "stage.autoencoder.trainer.max_steps=4", "trainer.max_steps=4", "name=rectangles",
        f"paths.data_dir={tmp_path}/data", f"paths.runs_dir={tmp_path}/runs",
    )  # fmt: skip
    run = tmp_path / "runs" / "rectangles"
    assert int(read(run / "autoencoder.safetensors")[1]["statistics_count"]) == 18, "each image once"
    assert json.loads((run / "diffusion" / "results.json").read_text())["eval/frechet_efficientnet"] > 0
    assert list((run / "diffusion" / "pictures").glob("samples-*.png"))


def test_evaluation_makes_and_measures_images_of_the_size_of_the_data(tmp_path):
    source = icons(tmp_path, size=[16, 24])
    data = captioned(tmp_path, size=[16, 24], source=source)
    metric = CaptionAccuracy(source)
    evaluation = Evaluation({"a": metric}, num_images=3, batch_size=2, cache=tmp_path)
    trainer = SimpleNamespace(
        global_rank=0, world_size=1, datamodule=data, checkpoint_callbacks=[], sanity_checking=False
    )
    shown, _ = evaluation._generate(trainer, small_model("[16,24]"), 3)
    assert shown.shape == (3, 3, 16, 24)
    assert 0.0 <= evaluation.suite.compute({})["caption_accuracy"] <= 1.0
    metric = Measured(metric)
    metric.update(source.images(source.val), {"caption": [drawing.caption for drawing in source.val]})
    assert metric.compute()["caption_accuracy"] == 1.0
    assert torch.isfinite(shown).all()
