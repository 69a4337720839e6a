"""Neighbours of single images and of prompts, in files to sample with; and the whole program on icons."""

import json
import re

import numpy as np
import pytest
import torch
from hydra.errors import InstantiationException

from ldm.cli.neighbors import run
from ldm.config import compose
from ldm.data.neighbors.database import open_database
from ldm.data.neighbors.search import ExactSearch
from ldm.generation.pictures import read_image
from ldm.pretrained.retrieval import CLIPRetrieval
from tests.conftest import forked
from tests.data.test_neighbors import noise, options, samples, vectors, write_noise
from tests.pretrained.test_clip_score import save_clip

pytest.importorskip("faiss", reason="pip install -e '.[neighbors]'")

PROMPTS = ["a red cat on a white background", "a blue heart", "a sailboat"]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    torch.manual_seed(0)
    return save_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def home(tmp_path_factory, clip):
    """Return a folder with an index by a CLIP of few weights, images and prompts."""
    home = tmp_path_factory.mktemp("home")
    write_noise(home / "train-0.tar", range(12))
    write_noise(home / "val.tar", [70], prefix="v")
    config = options(home, "dtype=float32")
    config.encoder = {"_target_": "ldm.pretrained.retrieval.CLIPRetrieval", "name": str(clip)}
    run(config)
    (home / "pictures").mkdir()
    for name, number in (("a.png", 4), ("b.png", 99), ("b.webp", 5)):
        (home / "pictures" / name).write_bytes(noise(number))
    (home / "prompts.txt").write_text("\n".join(PROMPTS))
    return home


def asked(home, out, *more):
    """Run a command for the neighbours of queries, and return the arrays that it wrote, by file, and its record."""
    run(compose("neighbors", [f"index={home}/out", f"out={out}", "k=3", "dtype=float32", "device=cpu", *more]))
    record = [json.loads(line) for line in (out / "queries.jsonl").read_text().splitlines()]
    return {line["file"]: np.load(out / line["file"], allow_pickle=False) for line in record}, record


def database(home, encoder):
    """Return the embeddings of the images in the index, by brute force."""
    paths = []
    for number in range(12):
        paths.append(home / f"noise-{number}.png")
        paths[-1].write_bytes(noise(number))
    return encoder.embed_images(torch.stack([read_image(str(path), encoder.size) for path in paths])).numpy()


def test_neighbours_of_images_and_prompts_are_those_of_brute_force(home, clip, tmp_path, capsys):
    encoder = CLIPRetrieval(str(clip))
    known = database(home, encoder)
    found, record = asked(home, tmp_path / "images", f"images={home}/pictures")
    assert list(found) == ["a.npy", "b.png.npy", "b.webp.npy"]
    assert f"next: python sample.py ckpt=RUN neighbors={tmp_path}/images" in capsys.readouterr().out
    queries = torch.stack([read_image(line["image"], encoder.size) for line in record])
    texts = encoder.embed_texts(PROMPTS, "cpu").numpy()
    answers, prompted = asked(home, tmp_path / "prompts", f"prompts={home}/prompts.txt", "batch_size=2")
    assert [line["prompt"] for line in prompted] == PROMPTS
    assert list(answers) == ["000000.npy", "000001.npy", "000002.npy"]
    both = [
        *zip(encoder.embed_images(queries).numpy(), found.values(), record),
        *zip(texts, answers.values(), prompted),
    ]
    for query, neighbors, line in both:
        order = np.argsort(-(known @ query))[:3]
        np.testing.assert_allclose(neighbors, known[order], atol=1e-5)
        assert [one["key"] for one in line["neighbors"]] == [f"a{number:04d}" for number in order]
        assert [one["similarity"] for one in line["neighbors"]] == pytest.approx((known @ query)[order], abs=1e-3)
    assert record[0]["neighbors"][0]["similarity"] == pytest.approx(1.0), "an image of the database finds itself"


def test_the_query_itself_can_stand_first(home, clip, tmp_path):
    plain, _ = asked(home, tmp_path / "plain", f"prompts={home}/prompts.txt")
    found, _ = asked(home, tmp_path / "with", f"prompts={home}/prompts.txt", "include_query=true")
    texts = CLIPRetrieval(str(clip)).embed_texts(PROMPTS, "cpu").numpy()
    for text, (name, rows) in zip(texts, found.items(), strict=True):
        np.testing.assert_allclose(rows[0], text, atol=1e-6)
        assert np.array_equal(rows[1:], plain[name])


def test_a_folder_of_answers_is_replaced_and_no_other(home, tmp_path):
    asked(home, tmp_path / "out", f"prompts={home}/prompts.txt")
    asked(home, tmp_path / "out", f"images={home}/pictures/a.png")
    assert sorted(path.name for path in (tmp_path / "out").iterdir() if path.name[0] != ".") == [
        "a.npy",
        "queries.jsonl",
    ]
    (tmp_path / "out" / "mine.npy").write_bytes(b"mine")
    with pytest.raises(ValueError, match=r"holds what was not written by this program \(mine.npy\)"):
        asked(home, tmp_path / "out", f"images={home}/pictures/a.png")
    with pytest.raises(ValueError, match="holds what was not written by this program"):
        asked(home, home / "out", f"images={home}/pictures/a.png")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["images={home}/pictures", "prompts={home}/prompts.txt"], "images and prompts were given"),
        (["images={home}/pictures", "index=null"], "needs index=FOLDER"),
        (["images={home}/nothing"], "no image at"),
        (["images={home}/prompts.txt"], "cannot be read as an image"),
        (["prompts={home}/nothing.txt"], "there is no file prompts="),
        (["prompts={home}/prompts.txt", "k=12"], "k=12 neighbours are not to be had from a database of 12 images"),
        (["images={home}/pictures", "database=x.tar"], "index and database were given"),
    ],
)
def test_queries_are_checked_before_anything_is_written(home, tmp_path, more, said):
    given = {"index": f"{home}/out", "out": f"{tmp_path}/out", "device": "cpu", "k": "3"}
    given |= dict(option.format(home=home).split("=", 1) for option in more)
    with pytest.raises((ValueError, OSError, InstantiationException), match=said):
        run(compose("neighbors", [f"{name}={value}" for name, value in given.items()]))
    assert not (tmp_path / "out").exists()


def test_damaged_files_are_said(home, tmp_path):
    for name in ("index.faiss", "embeddings-000000.safetensors"):
        file = home / "out" / name
        whole = file.read_bytes()
        file.write_bytes(whole[:40])
        try:
            with pytest.raises(ValueError, match=rf"{name} is damaged.*delete it"):
                asked(home, tmp_path / "out", f"images={home}/pictures")
        finally:
            file.write_bytes(whole)
    assert not (tmp_path / "out").exists()


@pytest.mark.e2e
def test_neighbours_of_icons_show_the_same_icon(tmp_path):
    """The whole program without a download: 83 % of them do, where 16 % would by chance."""
    out = tmp_path / "out"
    data = ["data=icons", "data.source.count=6", f"paths.data_dir={tmp_path}/data"]
    text = forked("-m", "ldm.data.neighbors", *data, "k=4", f"out={out}", "device=cpu")
    assert "train: shards written: 1, shards kept: 0, samples: 168" in text
    assert "\nnext: python train.py " in text
    found, rows = open_database(out, ExactSearch()), np.arange(168)
    neighbors = found.nearest(found.embeddings(rows), 4, rows).rows
    written = samples(out / "train-000000.tar")
    captions = [written[key]["txt"].decode() for _, key in found.names_of(rows.tolist())]
    icons = np.array([re.match(r"an? \w+ (.*) on an? ", caption)[1] for caption in captions])
    assert (icons[neighbors] == icons[:, None]).mean() > 0.7
    for row, (_, key) in enumerate(found.names_of(rows.tolist())):
        assert np.array_equal(vectors(written[key]), found.embeddings(neighbors[row]).astype(np.float16))


def test_any_number_of_workers_gives_the_same_bytes(home, tmp_path):
    for workers in (0, 2):
        run(options(home, f"index={home}/out", f"data.workers={workers}", f"out={tmp_path}/{workers}"))
    for name in ("train-000000.tar", "val-000000.tar"):
        assert (tmp_path / "0" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()
