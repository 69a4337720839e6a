from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from ldm.callback.evaluation import Evaluation, _cached
from tests.ranks import on_two_ranks
from tests.test_processes import connected


class Model:
    """Gives images that tell their seed; knows how many of them are alive at once."""

    def __init__(self):
        self.autoencoder = SimpleNamespace(shift=torch.zeros(1))
        self.conditioner = SimpleNamespace(inputs=("caption",))
        self.made = []

    def sample(self, fields, *, seeds, batch_size, **_):
        assert len(fields["caption"]) == len(fields["geometry"]) == len(seeds) <= batch_size
        assert fields["geometry"].tolist() == [[2, 2, 0, 0, 2, 2]] * len(seeds), "of the asked size, not cropped"
        self.made += seeds
        return torch.tensor(seeds).float()[:, None, None, None].expand(-1, 3, 2, 2)


def generate(total, *, final=None, rank=0, world=1, grid=64, batch=4):
    evaluation = Evaluation({}, num_images=1, batch_size=batch, cache="", final_images=final, seed=0, grid=grid)
    data = SimpleNamespace(
        size=(2, 2),
        val_size=lambda number: (2, 2),
        val_set=type(
            "Set", (), {"__len__": lambda _: total, "fields_of": lambda _, numbers: {"caption": [*map(str, numbers)]}}
        )(),
    )
    asked = []
    trainer = SimpleNamespace(
        global_rank=rank, world_size=world, datamodule=data, checkpoint_callbacks=asked, sanity_checking=False
    )
    model = Model()
    return evaluation._generate(trainer, model, evaluation.final_images), model.made


@pytest.mark.parametrize(("total", "grid"), [(1, 4), (7, 4), (8, 4), (30, 4), (3, 64)])
def test_the_picture_shows_images_evenly_spread_and_no_others_are_kept(total, grid):
    shown, made = generate(total, grid=grid)
    assert made == list(range(total))
    every = torch.arange(float(total))[:: max(1, total // grid)][:grid]
    assert torch.equal(shown[:, 0, 0, 0], every)
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


def test_damaged_or_broken_sums_over_real_images_are_made_anew(tmp_path):
    path = tmp_path / "reference.safetensors"
    assert _cached(path) is None
    save_file({"sum": torch.ones(3)}, path)
    assert torch.equal(_cached(path)["sum"], torch.ones(3))
    path.write_bytes(path.read_bytes()[:-5])
    assert _cached(path) is None
    save_file({"sum": torch.tensor([1.0, float("nan")])}, path)
    assert _cached(path) is None


class Counting:
    """A metric that sums real images."""

    reference_name = "sum"

    def __init__(self):
        self.total, self.given = torch.zeros(1), None

    def update_reference(self, images):
        self.total += images.sum()

    def reference(self):
        return {"total": self.total}

    def set_reference(self, sums):
        self.given = float(sums["total"])


def test_the_first_rank_alone_reads_the_sums_over_real_images(tmp_path):
    """Each rank has a cache of its own here, as on two machines; only the first has the file, or writes it."""

    def work(rank):
        trainer = connected()
        (tmp_path / str(rank)).mkdir(exist_ok=True)
        for expected in (10.0, 10.0):
            metric = Counting()
            passed = []
            data = SimpleNamespace(
                fingerprint="a",
                val_pass=lambda size, rank, world, passed=passed: (
                    passed.append(1) or [SimpleNamespace(fields={"image": torch.full((1,), 5.0)})]
                ),
            )
            place = SimpleNamespace(
                datamodule=data, strategy=trainer.strategy, global_rank=rank, world_size=2, is_global_zero=rank == 0
            )
            Evaluation({}, num_images=1, batch_size=1, cache=tmp_path / str(rank))._update_reference(place, metric)
            assert metric.given == (expected if rank == 0 else 0.0)
            print("computed" if passed else "read")

    for code, text in on_two_ranks(work):
        assert code == 0, text
        assert text.split()[-2:] == ["computed", "read"], text
    assert not list((tmp_path / "1").iterdir())
