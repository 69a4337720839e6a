import math
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from ldm.callback.evaluation import Evaluation
from ldm.callback.gathering import measure_together
from ldm.conditioner.in_pictures import class_colors
from ldm.conditioner.label import LabelConditioner
from ldm.conditioner.segmentation import SegmentationConditioner
from ldm.data.dataset import sequential
from ldm.data.order.shuffle import evaluation_order
from ldm.metric.base import FeatureMetric
from ldm.metric.frechet import Frechet
from ldm.metric.per_image import PerImageMetric
from ldm.metric.reference_file import cached_reference
from ldm.metric.statistics import Reference, Statistics
from ldm.metric.suite import MetricSuite
from tests.metric.test_metric import Pixels
from tests.processes.test_ranks import connected
from tests.ranks import on_two_ranks


class Model:
    """Gives images that tell their seed, in 8-bit levels; knows how many of them are alive at once."""

    def __init__(self):
        self.autoencoder = SimpleNamespace(shift=torch.zeros(1))
        self.conditioner = SimpleNamespace(inputs=("caption",))
        self.made = []

    def readers(self, guidance):
        return (self.conditioner,)

    def sample(self, fields, *, seeds, batch_size, **_):
        assert len(fields[self.conditioner.inputs[0]]) == len(fields["geometry"]) == len(seeds) <= batch_size
        assert fields["geometry"].tolist() == [[2, 2, 0, 0, 2, 2]] * len(seeds), "of the asked size, not cropped"
        self.made += seeds
        return (torch.tensor(seeds).float() / 127.5 - 1)[:, None, None, None].expand(-1, 3, 2, 2)


def of_all(values):
    return torch.stack(values) if isinstance(values[0], torch.Tensor) else values


def test_known_pixels_are_put_back_before_completed_images_are_measured():
    class Completer(Model):
        def __init__(self):
            super().__init__()
            self.conditioner = SimpleNamespace(inputs=("masked_latent", "mask"))
            self.image, self.mask = torch.full((3, 2, 2), 0.5), torch.tensor([[[0.0, 1], [0, 0]]])

        def sample(self, fields, *, start, **_):
            return start.finish(torch.full((len(fields["mask"]), 3, 2, 2), -1.0))

    model = Completer()
    measured = []
    evaluation = Evaluation({}, num_images=1, batch_size=4, cache="", final_images=None, seed=0)
    evaluation.suite.update = lambda images, fields, numbers: measured.append(images)
    fields = {"image": model.image.expand(2, -1, -1, -1), "mask": model.mask.expand(2, -1, -1, -1)}
    samples = type(
        "Set", (), {"__len__": lambda _: 2, "size_of": lambda _, number: None, "whole_fields": lambda *_, **__: fields}
    )
    data = SimpleNamespace(size=(2, 2), fingerprint="", val_set=samples())
    trainer = SimpleNamespace(
        global_rank=0, world_size=1, datamodule=data, checkpoint_callbacks=[], sanity_checking=False
    )
    evaluation._generate(trainer, model, None)
    expected = torch.where(model.mask > 0, torch.tensor(-1.0), model.image)
    assert torch.equal(torch.cat(measured), expected.expand(2, -1, -1, -1))


def generated(total, model, field_of, *, final=None, rank=0, world=1, grid=64, batch=4):
    """Return the images that are shown, and what they were made for; `field_of`: number of a sample -> its field."""
    evaluation = Evaluation({}, num_images=1, batch_size=batch, cache="", final_images=final, seed=0, grid=grid)
    data = SimpleNamespace(
        size=(2, 2),
        fingerprint="",
        val_set=type(
            "Set",
            (),
            {
                "__len__": lambda _: total,
                "size_of": lambda _, number: None,
                "whole_fields": lambda _, numbers, image: {
                    model.conditioner.inputs[0]: of_all([*map(field_of, numbers)])
                },
            },
        )(),
    )
    asked = []
    trainer = SimpleNamespace(
        global_rank=rank, world_size=world, datamodule=data, checkpoint_callbacks=asked, sanity_checking=False
    )
    return evaluation._generate(trainer, model, evaluation.final_images)


def generate(total, **options):
    model = Model()
    shown, captions = generated(total, model, str, **options)
    order = evaluation_order(total).tolist()
    numbers = ((shown[:, 0, 0, 0] + 1) * 127.5).round().int().tolist()
    assert captions == [str(order[number]) for number in numbers], "each its own"
    return shown, model.made


def test_what_images_are_made_for_is_said_by_the_names_of_classes():
    model = Model()
    model.conditioner = LabelConditioner(3, width=8, names=["heart", "cat", "sea lion"])
    _, said = generated(7, model, lambda number: number % 3)
    assert said == [model.conditioner.class_names.names[number % 3] for number in evaluation_order(7).tolist()]


def test_pictures_of_conditions_stand_above_the_images():
    model = Model()
    model.conditioner = SegmentationConditioner(7)
    shown, _ = generated(7, model, lambda number: torch.full((2, 2), number))
    conditions, images = shown.split(2, dim=2)
    assert torch.equal(conditions[..., 0, 0], class_colors(torch.tensor(evaluation_order(7).tolist())))
    assert ((images[:, 0, 0, 0] + 1) * 127.5).round().tolist() == list(range(7))


@pytest.mark.parametrize(("total", "grid"), [(1, 4), (7, 4), (8, 4), (30, 4), (3, 64)])
def test_the_picture_shows_images_evenly_spread_and_no_others_are_kept(total, grid):
    shown, made = generate(total, grid=grid)
    assert made == list(range(total))
    every = torch.arange(float(total))[:: max(1, total // grid)][:grid]
    assert torch.equal(shown[:, 0, 0, 0], every / 127.5 - 1)
    assert shown.untyped_storage().nbytes() == shown.numel() * 4


def test_the_number_at_the_end_is_bounded(tmp_path):
    assert len(generate(20, final=5)[1]) == 5
    assert len(generate(20, final=50)[1]) == 20
    assert Evaluation({}, num_images=1, batch_size=1, cache="").final_images == 5000


def test_ranks_go_round_as_often_though_one_has_less_to_do(monkeypatch):
    """9 images for two ranks, four at once: the first makes 5 in two rounds, the second 4 in one."""
    asked = []
    monkeypatch.setattr("ldm.callback.evaluation.end_if_asked", asked.append)
    counts = []
    for rank in (0, 1):
        counts.append((len(generate(9, rank=rank, world=2)[1]), len(asked)))
        asked.clear()
    assert counts == [(5, 2), (4, 2)]
    assert generate(1, rank=1, world=2)[0].shape == (0, 3, 2, 2)


def test_damaged_or_foreign_references_are_made_anew(tmp_path):
    path = tmp_path / "reference.safetensors"
    assert cached_reference(path, "a") is None
    Reference(Statistics(3, torch.ones(2), torch.eye(2)), torch.ones(3, 2)).write(path, "a")
    found = cached_reference(path, "a")
    assert (found.statistics.count, found.features.shape) == (3, (3, 2))
    path.write_bytes(path.read_bytes()[:-5])
    assert cached_reference(path, "a") is None
    save_file({"mean": torch.ones(2), "covariance": torch.full((2, 2), torch.nan)}, path, {"extractor": "a"})
    assert cached_reference(path, "a") is None
    save_file({"real_features_sum": torch.ones(3)}, path)
    assert cached_reference(path, "a") is None, "sums of an earlier layout"
    Reference(Statistics(3, torch.ones(2), torch.eye(2))).write(path, "b")
    assert cached_reference(path, "a") is None, "of another network"


class Nearest(FeatureMetric):
    """The number of images, and the mean distance of their features, in order, from kept ones of real images, in order."""

    names = ("count", "distance")

    def measure(self, generated, reference):
        distance = (generated[: len(reference.features)] - reference.features).norm(dim=1).mean()
        return {"count": len(generated), "distance": float(distance)}


class Numbered:
    """Validation images whose grey level is their number, and the passes over them that were made."""

    fingerprint, buckets, size = "a", None, (4, 4)

    def __init__(self, count):
        self.count, self.passes = count, 0
        self.val_set = self

    def __len__(self):
        return self.count

    def size_of(self, number):
        return None

    def whole_fields(self, numbers, *, image):
        return {"caption": [*map(str, numbers)]}

    def val_pass(self, batch_size, *, rank, world):
        self.passes += 1
        for draws in sequential(self, batch_size, rank=rank, world=world):
            levels = torch.tensor([float(draw.number) for draw in draws])
            yield SimpleNamespace(fields={"image": (levels / 127.5 - 1)[:, None, None, None].expand(-1, 3, 4, 4)})


class Brighter(Model):
    """Gives images a level brighter than their seed."""

    def sample(self, fields, *, seeds, **_):
        return ((torch.tensor(seeds) + 1.0) / 127.5 - 1)[:, None, None, None].expand(-1, 3, 4, 4)


def test_two_ranks_measure_what_one_does_and_the_first_alone_reads_and_writes_the_cache(tmp_path, monkeypatch):
    """With a cache for each, as on two machines. 7 images: one rank makes 4, the other 3."""
    monkeypatch.setattr("ldm.callback.gathering.CHUNK", 6)  # two rows of three features

    def scores(trainer, rank, world, data, cache):
        place = SimpleNamespace(
            datamodule=data, strategy=trainer.strategy, global_rank=rank, world_size=world, is_global_zero=rank == 0,
            checkpoint_callbacks=[], sanity_checking=False,
        )  # fmt: skip
        evaluation = Evaluation(
            {"a": Nearest(Pixels(), real_features=4), "b": Frechet(Pixels())},
            num_images=7,
            batch_size=2,
            cache=cache,
            seed=0,
        )
        for signature, kept in evaluation.suite.real_features.items():
            found = evaluation._reference(place, evaluation.suite.extractors[signature], kept)
            evaluation._references |= {} if found is None else {signature: found}
        evaluation._generate(place, Brighter(), 7)
        return measure_together(place, evaluation.suite, evaluation._references)

    single = SimpleNamespace(strategy=SimpleNamespace(broadcast=lambda value: value, root_device=torch.device("cpu")))
    whole = scores(single, 0, 1, Numbered(7), tmp_path / "one")
    assert whole["count"] == 7
    assert whole["distance"] == pytest.approx(3**0.5 / 127.5 * (1 + 1 + 0 + 1) / 4, rel=1e-4), "kept are 0, 1, 3 and 5"
    assert whole["frechet_pixels"] == pytest.approx(3 / 127.5**2, rel=1e-3)

    def work(rank):
        trainer = connected()
        (tmp_path / str(rank)).mkdir(exist_ok=True)
        for passes in (1, 0):
            data = Numbered(7)
            found = scores(trainer, rank, 2, data, tmp_path / str(rank))
            assert found == {**whole, "frechet_pixels": pytest.approx(whole["frechet_pixels"], rel=1e-9)}
            assert data.passes == passes
        broken = SimpleNamespace(strategy=trainer.strategy, global_rank=rank, world_size=2, is_global_zero=rank == 0)
        suite = MetricSuite([Frechet(Pixels())])
        suite.update(torch.rand(3, 3, 4, 4), {}, range(3 * rank, 3 * rank + 3))
        with pytest.raises(ValueError, match="compares with real images, but none are known"):
            measure_together(broken, suite, {})

    for code, text in on_two_ranks(work):
        assert code == 0, text
    assert not list((tmp_path / "1").iterdir())
    assert len(list((tmp_path / "0").iterdir())) == 1


def test_final_scores_of_few_images_are_doubted(caplog):
    evaluation = Evaluation({"b": Frechet(Pixels())}, num_images=7, batch_size=2, cache="", final_images=3)
    place = SimpleNamespace(datamodule=Numbered(7))
    evaluation._warn(place, None)
    assert not caplog.records
    evaluation._warn(place, evaluation.final_images)
    assert "measured on 3 images" in caplog.text
    assert "its rank is 2 at most" in caplog.text


def test_images_that_are_all_the_same_have_no_score_and_the_others_keep_theirs(caplog):
    class Brightness(PerImageMetric):
        def __init__(self):
            super().__init__(["brightness"])

        def measure(self, images, fields):
            return {"brightness": images.mean((1, 2, 3))}

    suite = MetricSuite([Frechet(Pixels()), Brightness()])
    suite.update(torch.ones(3, 3, 4, 4), {}, range(3))
    scores = suite.compute({"pixels": Reference(Statistics(None, torch.zeros(3), torch.eye(3)))})
    assert math.isnan(scores["frechet_pixels"])
    assert scores["brightness"] == 1.0
    assert "features of all 3 generated images are the same" in caplog.text
