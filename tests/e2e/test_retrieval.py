"""Models of the embedded icons conditioned on an image's neighbours: a tiny one runs, and a whole one makes what they show."""

import io
import json
import re
import shlex

import pytest
import torch
from PIL import Image

from ldm.checkpoint import load
from ldm.config import build
from ldm.files.picture import to_tensor
from tests.configs import composed
from tests.conftest import forked, scramble, train_whole
from tests.data.test_neighbors import samples, vectors
from tests.metric.measured import Measured

pytest.importorskip("faiss", reason="pip install -e '.[neighbors]'")
pytestmark = pytest.mark.e2e

PARTS = ["", "icon_", "color_", "background_"]


def scores(run):
    """Return the shares of images that show what the true one does: whole, and by part."""
    found = json.loads((run / "diffusion" / "results.json").read_text())
    return [found[f"eval/variation_{part}accuracy"] for part in PARTS]


def next_command(text):
    """Return the words of the command that a program proposes."""
    (line,) = re.findall(r"^next: python (train\.py .*)$", text, re.MULTILINE)
    return shlex.split(line)


@pytest.fixture(scope="module")
def found(home, places):
    """The folder of six icons with neighbours, and the training command that the program proposes."""
    data = ["data=icons", "data.source.count=6", "k=4", places[0], "device=cpu", f"out={home / 'neighbors'}"]
    return home / "neighbors", next_command(forked("-m", "ldm.data.neighbors", *data))


@pytest.fixture(scope="module")
def tiny_retrieval(found, home, places, tiny_run):
    """The folder of a tiny run conditioned on neighbours."""
    forked(*found[1], "debug=tiny", "trainer=cpu", "name=retrieval", *places, f"autoencoder.ckpt={tiny_run}",
           "stage.diffusion.trainer.max_steps=10")  # fmt: skip
    return home / "runs" / "retrieval"


def test_the_proposed_command_trains_a_model_that_is_judged_by_the_truth(found, tiny_retrieval):
    assert found[1][1] == "experiment=retrieval_icons"
    assert all(0.0 <= share <= 1.0 for share in scores(tiny_retrieval))
    model = load(tiny_retrieval)
    assert (model.conditioner.width, model.conditioner.scale) == (1280, 36.0)
    scramble(model.denoiser)
    here, there = torch.eye(1280)[:4], torch.eye(1280)[4:8]
    images = model.sample({"neighbors": torch.stack([here, there])}, seeds=[1, 1])
    assert not torch.equal(*images), "neighbours matter"


def test_the_neighbours_of_a_picture_are_sampled_with(found, tiny_retrieval, tmp_path):
    (tmp_path / "pictures").mkdir()
    for color in ("red", "blue"):
        Image.new("RGB", (40, 32), color).save(tmp_path / "pictures" / f"{color}.png")
    forked("-m", "ldm.data.neighbors", f"index={found[0]}", f"images={tmp_path / 'pictures'}", "k=4",
           f"out={tmp_path / 'queries'}", "device=cpu")  # fmt: skip
    forked("sample.py", f"ckpt={tiny_retrieval}", f"neighbors={tmp_path / 'queries'}", "n=2", f"out={tmp_path / 'out'}")
    record = [json.loads(line) for line in (tmp_path / "out" / "samples.jsonl").read_text().splitlines()]
    assert [line["neighbors"] for line in record] == [
        str(tmp_path / "queries" / f"{color}.npy") for color in ("blue", "blue", "red", "red")
    ]


def test_the_truth_is_that_of_the_icons(tmp_path):
    options = ["data.size=32", f"paths.data_dir={tmp_path}"]
    truth = composed("train", "experiment=retrieval_icons", *options).metric.variation_accuracy.truth
    source = composed("train", "experiment=variation_icons", *options).data.source
    wanted, given = build(source), build(truth)
    assert given.drawings == wanted.drawings
    assert torch.equal(given.images(given.drawings[:8]), wanted.images(wanted.drawings[:8]))


@pytest.mark.long
@pytest.mark.slow
def test_an_image_shows_what_its_neighbours_show(whole_autoencoder, home, places):
    """Conditioned on the neighbours of another image, it is that of its own as often as by chance."""
    folder = home / "data" / "neighbors"
    forked("-m", "ldm.data.neighbors", "data=icons", places[0], f"out={folder}", "device=cpu")
    train_whole("experiment=retrieval_icons", f"autoencoder.ckpt={whole_autoencoder}", *places)
    run = home / "runs" / "retrieval_icons"
    assert all(share >= least for share, least in zip(scores(run)[1:], (0.55, 0.3, 0.7)))
    val = list(samples(folder / "val-000000.tar").values())
    shown = torch.stack([to_tensor(Image.open(io.BytesIO(files["png"])).convert("RGB")) for files in val])
    embedded = torch.stack([torch.from_numpy(vectors(files)).float() for files in val])
    config = composed("train", "experiment=retrieval_icons", *places)
    metric = Measured(build(config.metric.variation_accuracy))
    model = load(run)
    for start in range(0, len(val), 64):
        rows = torch.arange(start, start + 64)
        images = model.sample({"neighbors": embedded.roll(37, 0)[rows]}, seeds=rows.tolist())
        metric.update(images, {"image": shown[rows]})
    assert metric.compute()["variation_icon_accuracy"] < 0.06
