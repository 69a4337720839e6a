"""Nearest neighbours: those of brute force, never the image itself, beside samples and for single images and prompts."""

import io
import json
import shutil
import sys
import tarfile

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hydra.errors import InstantiationException
from PIL import Image

from ldm.cli.neighbors import run
from ldm.config import CONFIGS, build, compose
from ldm.data.bad_samples import BadSampleCounter
from ldm.data.neighbors.copies import ShardCopier
from ldm.data.neighbors.database import EMBEDDINGS, INDEX, embed_shards, open_database
from ldm.data.neighbors.program import PLAN, copy_shards
from ldm.data.neighbors.search import ExactSearch, InvertedFileSearch, NeighborSearch
from ldm.data.shards.names import name_shards
from ldm.pretrained.retrieval import CLIPRetrieval, RetrievalEncoder
from tests.data.small_shards import dataset, encoded, level, write_tar
from tests.pretrained.test_clip_score import save_clip

pytest.importorskip("faiss", reason="pip install -e '.[neighbors]'")


class PixelEncoder(RetrievalEncoder):
    """The colours of 8 x 8 pixels: alike are images that look so."""

    size = 8
    signature = "pixels"

    def embed_images(self, image):
        return F.normalize(image.flatten(1))


def noise(number):
    """Return the bytes of an image of noise, which the number decides."""
    levels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), np.uint8)
    return encoded(Image.fromarray(levels))


def write_noise(path, numbers, *, prefix="a", **files):
    """Write a shard of images of noise, with keys that count from 0."""
    samples = [(f"{prefix}{place:04d}", number) for place, number in enumerate(numbers)]
    return write_tar(
        path,
        [
            (f"{key}.{ending}", data)
            for key, number in samples
            for ending, data in {"png": noise(number), "txt": f"noise {number}".encode(), **files}.items()
        ],
    )


def embedded(pattern, out, *, search=None, dtype="float32", max_broken=1.0):
    """Return the images of some shards and the database of them in a folder."""
    images = dataset(pattern, out.parent / "cache")
    out.mkdir(exist_ok=True)
    counter = BadSampleCounter(max_broken)
    embed_shards(
        images,
        PixelEncoder(),
        out,
        dtype=dtype,
        batch_size=4,
        workers=0,
        device=torch.device("cpu"),
        bad_samples=counter,
    )
    return images, open_database(out, search or ExactSearch())


def copied(images, database, out, *, k=3, dtype="float32", batch_size=4, split="train"):
    """Write copies with neighbours, and return what was counted."""
    copier = ShardCopier(
        database, PixelEncoder(), k=k, dtype=dtype, batch_size=batch_size, workers=0, device=torch.device("cpu")
    )
    out.mkdir(exist_ok=True)
    return copier.write(images, out, split, BadSampleCounter(1.0))


def samples(*paths):
    """Return the files of all samples of tar files, by key and ending."""
    found = {}
    for path in paths:
        with tarfile.open(path) as archive:
            for member in archive:
                key, _, ending = member.name.partition(".")
                found.setdefault(key, {})[ending] = archive.extractfile(member).read()
    return found


def vectors(files):
    """Return the neighbours of a sample."""
    return np.load(io.BytesIO(files["neighbors.npy"]), allow_pickle=False)


def embedding(number):
    """Return what the encoder makes of an image of noise."""
    levels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), np.uint8)
    image = torch.tensor(levels).permute(2, 0, 1)[None].float() / 127.5 - 1
    return PixelEncoder().embed_images(image)[0].numpy()


SEARCHES = [ExactSearch(), InvertedFileSearch(lists=5, probes=5), InvertedFileSearch(lists=5, probes=1)]


@pytest.mark.parametrize("search", SEARCHES[:2], ids=["exact", "all lists"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_neighbours_are_those_of_brute_force(tmp_path, search, dtype):
    for shard in range(3):
        write_noise(tmp_path / f"{shard}.tar", range(20 * shard, 20 * shard + 20))
    images, database = embedded(f"{tmp_path}/*.tar", tmp_path / "out", search=search, dtype=dtype)
    stored = np.stack([embedding(number) for number in range(60)]).astype(dtype).astype(np.float64)
    stored /= np.linalg.norm(stored, axis=1, keepdims=True)
    cosines = stored @ stored.T
    np.fill_diagonal(cosines, -np.inf)
    expected = np.argsort(-cosines, axis=1)[:, :7]
    own = np.arange(60)
    found = database.nearest(database.embeddings(own), 7, own)
    assert np.array_equal(found.rows, expected)
    np.testing.assert_allclose(found.similarities, np.take_along_axis(cosines, expected, 1), atol=1e-6)
    np.testing.assert_allclose(found.embeddings, stored[expected], atol=1e-6)
    copied(images, database, tmp_path / "copies", k=7, dtype=dtype)
    for number, files in enumerate(samples(*sorted((tmp_path / "copies").glob("*.tar"))[:1]).values()):
        assert vectors(files).dtype == dtype
        np.testing.assert_allclose(vectors(files), stored[expected[number]], atol=1e-3 if dtype == "float16" else 1e-6)


@pytest.mark.parametrize("search", SEARCHES, ids=["exact", "all lists", "one list"])
def test_a_twin_is_the_first_neighbour_and_the_image_itself_is_none(tmp_path, search):
    """Also where there are more twins than neighbours, of which the image itself need not be among the first found."""
    write_noise(tmp_path / "a.tar", [*range(40), 7])
    write_noise(tmp_path / "b.tar", [50] * 6, prefix="b")
    images, database = embedded(f"{tmp_path}/?.tar", tmp_path / "out", search=search)
    own = np.arange(47)
    rows = database.nearest(database.embeddings(own), 3, own).rows
    assert not (rows == own[:, None]).any()
    assert (rows[7, 0], rows[40, 0]) == (40, 7)
    for row in range(41, 47):
        assert set(rows[row]) < set(range(41, 47))
        assert list(rows[row]) == sorted(rows[row]), "equally near ones stand in the order of the database"
    copied(images, database, tmp_path / "copies")
    found = samples(*(tmp_path / "copies").glob("*.tar"))
    np.testing.assert_allclose(vectors(found["a0007"])[0], embedding(7), atol=1e-6)
    assert abs(vectors(found["a0008"]) @ embedding(8)).max() < 0.9


def test_few_lists_find_less_but_never_too_few(tmp_path):
    write_noise(tmp_path / "a.tar", range(120))
    _, exact = embedded(f"{tmp_path}/a.tar", tmp_path / "exact")
    own = np.arange(120)
    truth = exact.nearest(exact.embeddings(own), 20, own).rows
    recalls = []
    for probes in (1, 4, 12):
        search = InvertedFileSearch(lists=12, probes=probes)
        _, database = embedded(f"{tmp_path}/a.tar", tmp_path / f"probes{probes}", search=search)
        rows = database.nearest(database.embeddings(own), 20, own).rows
        assert all(len(set(row) - {number}) == 20 and min(row) >= 0 for number, row in enumerate(rows.tolist()))
        recalls.append(np.mean([len(set(a) & set(b)) / 20 for a, b in zip(rows.tolist(), truth.tolist())]))
    assert recalls[0] < recalls[1] < recalls[2] == 1.0
    with pytest.raises(
        ValueError, match="search.lists=500 clusters of a database of 120 images; give fewer, or search=exact"
    ):
        embedded(f"{tmp_path}/a.tar", tmp_path / "many", search=InvertedFileSearch(lists=500))


def test_a_copy_has_all_files_of_its_sample_and_the_same_bytes_each_time(tmp_path):
    path = write_noise(tmp_path / "a.tar", range(9), json=b'{"n": 1}', **{"seg.png": level(3), "neighbors.npy": b"old"})
    images, database = embedded(path, tmp_path / "out")
    done = copied(images, database, tmp_path / "copies")
    before, after = samples(path), samples(tmp_path / "copies" / "train-000000.tar")
    assert list(after) == list(before)
    for key, files in before.items():
        assert {ending: data for ending, data in after[key].items() if ending != "neighbors.npy"} == {
            ending: data for ending, data in files.items() if ending != "neighbors.npy"
        }
        assert vectors(after[key]).shape == (3, 192)
    assert done["samples"] == 9
    copied(images, database, tmp_path / "again")
    assert (tmp_path / "again" / "train-000000.tar").read_bytes() == (
        tmp_path / "copies" / "train-000000.tar"
    ).read_bytes()


def test_a_sample_is_known_by_its_shard_wherever_that_lies(tmp_path):
    """Its image is not decoded again, and is none of its own neighbours; an image of another shard may be one."""
    path = write_noise(tmp_path / "a.tar", range(12))
    _, database = embedded(path, tmp_path / "out")
    (tmp_path / "elsewhere").mkdir()
    moved = str(shutil.copy(path, tmp_path / "elsewhere" / "b.tar"))
    copied(dataset(moved, tmp_path / "cache"), database, tmp_path / "moved")
    copied(dataset(path, tmp_path / "cache"), database, tmp_path / "same")
    assert samples(tmp_path / "moved" / "train-000000.tar") == samples(tmp_path / "same" / "train-000000.tar")
    other = write_noise(tmp_path / "c.tar", [5, 99], prefix="c")
    copied(dataset(other, tmp_path / "cache"), database, tmp_path / "other")
    found = samples(tmp_path / "other" / "train-000000.tar")
    np.testing.assert_allclose(vectors(found["c0000"])[0], embedding(5), atol=1e-6)
    cosines = vectors(found["c0001"]) @ embedding(99)
    best = np.sort([embedding(number) @ embedding(99) for number in range(12)])[::-1][:3]
    np.testing.assert_allclose(cosines, best, atol=1e-6)


def test_broken_images_are_left_out_and_counted(tmp_path):
    half = encoded(Image.effect_noise((64, 64), 50))[:700]
    files = [(f"{n}.{e}", d) for n in range(6) for e, d in (("png", noise(n)), ("txt", b"x"))]
    path = write_tar(tmp_path / "a.tar", [*files, ("half.png", half), ("half.txt", b"x"), ("mute.png", level(1))])
    images, database = embedded(path, tmp_path / "out")
    assert len(database) == 6
    done = copied(images, database, tmp_path / "copies")
    assert (done["samples"], done["unreadable image"], done["no caption"]) == (6, 1, 1)
    assert "half" not in samples(tmp_path / "copies" / "train-000000.tar")
    with pytest.raises(ValueError, match="more than the share data.max_broken=0.01"):
        embedded(path, tmp_path / "strict", max_broken=0.01)
    with pytest.raises(
        ValueError, match="k=6 neighbours are not to be had from a database of 6 images.*give k=5 or less"
    ):
        copied(images, database, tmp_path / "more", k=6)


def options(tmp_path, *more):
    """Return the options of a small command; those of `more` replace them."""
    given = {
        "data.train": f"{tmp_path}/train-*.tar", "data.val": f"{tmp_path}/val.tar", "out": f"{tmp_path}/out", "k": "3",
        "data.workers": "0", "data.cache": f"{tmp_path}/cache", "device": "cpu", "encoder.size": "32",
    }  # fmt: skip
    given |= dict(option.split("=", 1) for option in more)
    return compose("neighbors", [f"{name}={value}" for name, value in given.items()])


@pytest.fixture
def shards(tmp_path):
    write_noise(tmp_path / "train-0.tar", range(8))
    write_noise(tmp_path / "train-1.tar", range(8, 13), prefix="b")
    write_noise(tmp_path / "val.tar", [3, 70], prefix="v")
    return tmp_path


def test_an_interrupted_command_goes_on(shards, capsys):
    copy_shards(options(shards))
    out = shards / "out"
    names = [
        EMBEDDINGS.format(0),
        EMBEDDINGS.format(1),
        INDEX,
        PLAN,
        "train-000000.tar",
        "train-000001.tar",
        "val-000000.tar",
    ]
    assert sorted(path.name for path in out.iterdir() if path.name[0] != ".") == names
    text = capsys.readouterr().out
    assert "train: shards written: 2, shards kept: 0, samples: 13" in text
    assert "val: shards written: 1, shards kept: 0, samples: 2" in text
    (line,) = (line for line in text.splitlines() if line.startswith("next: "))
    assert "conditioner.width=1280" in line
    (train,) = (word for word in line.split() if word.startswith("data.train="))
    assert len(name_shards(train.partition("=")[2].strip("'"))) == 2
    found = samples(out / "train-000000.tar", out / "val-000000.tar")
    twin, index = vectors(found["v0000"]), open_database(out, ExactSearch())
    np.testing.assert_allclose(twin[0], index.embeddings(np.array([3]))[0], atol=1e-3)
    whole = {name: (out / name).read_bytes() for name in names}
    for lost in (names[1:3], names[4:5], names[2:]):
        for name in set(lost) - {PLAN}:
            (out / name).unlink()
        copy_shards(options(shards))
        assert {name: (out / name).read_bytes() for name in names} == whole
    with pytest.raises(ValueError, match="was begun with other settings .k: 3 -> 4.; choose another out="):
        copy_shards(options(shards, "k=4"))


def test_another_database_and_an_index_that_is_there(shards):
    write_noise(shards / "db.tar", [3, *range(200, 206)], prefix="d")
    copy_shards(options(shards, f"database={shards}/db.tar", f"out={shards}/a"))
    copy_shards(options(shards, f"index={shards}/a", f"out={shards}/b"))
    for name in ("train-000000.tar", "val-000000.tar"):
        assert samples(shards / "a" / name) == samples(shards / "b" / name)
    assert not (shards / "b" / INDEX).exists()
    with pytest.raises(ValueError, match=r"index=\S+b holds no finished index; give a folder that this program wrote"):
        copy_shards(options(shards, f"index={shards}/b", f"out={shards}/c"))
    plan = json.loads((shards / "a" / PLAN).read_text())
    (shards / "a" / PLAN).write_text(json.dumps({**plan, "signature": "other"}))
    with pytest.raises(ValueError, match="the encoder of index=.* was other, and is efficientnet-lite0-32 now"):
        copy_shards(options(shards, f"index={shards}/a", f"out={shards}/c"))
    (shards / "a" / PLAN).write_text(json.dumps({**plan, "encoder": {"_target_": "os.system", "command": "true"}}))
    with pytest.raises(ValueError, match="asks to construct 'os.system'"):
        copy_shards(options(shards, f"index={shards}/a", f"out={shards}/c"))
    assert not (shards / "c").exists()


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("k=0", "k=0 cannot be; give a whole number, at least 1"),
        ("k=13", "k=13 neighbours are not to be had from a database of 13 images"),
        ("dtype=int8", "dtype=int8 cannot be; give one of float32, float16"),
        ("batch_size=0", "batch_size=0 cannot be"),
        ("include_query=true", "include_query=true is for images=... and prompts=..."),
        ("images=x", "images and data were given, whose neighbours are to be found; give one of them"),
        ("data.train=null", "nothing was given whose neighbours are to be found"),
        ("data.val=null", "data.val has no value; the validation images need neighbours, too"),
        ("data.train=nowhere.tar", "no shard at 'nowhere.tar'"),
        ("database=nowhere.tar", "no shard at 'nowhere.tar'"),
        ("index=nowhere", "index=nowhere holds no finished index"),
        ("encoder.size=8", "encoder.size=8 cannot be; give a whole number, at least 32"),
        ("data=stream", "neighbours are found of images with an index"),
    ],
)
def test_options_are_checked_before_anything_is_written(shards, option, said):
    with pytest.raises((ValueError, OSError, InstantiationException)) as caught:
        run(options(shards, option))
    assert said in f"{caught.value} {caught.value.__cause__}"
    assert not (shards / "out").exists()


def test_mixtures_and_folders_of_others_are_refused(shards):
    mixture = f"data.train=[{{shards: {shards}/train-0.tar, weight: 1}},{{shards: {shards}/train-1.tar, weight: 2}}]"
    with pytest.raises(ValueError, match="data.train is a mixture, whose weights copies do not have"):
        copy_shards(options(shards, mixture))
    (shards / "out").mkdir()
    (shards / "out" / "train-000000.tar").write_text("mine")
    with pytest.raises(ValueError, match=r"out=\S+out holds what was not written by this program"):
        copy_shards(options(shards))
    assert (shards / "out" / "train-000000.tar").read_text() == "mine"


def test_without_faiss_the_extra_is_named(shards, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ImportError, match=r'needs the package faiss-cpu; type pip install -e "\.\[neighbors\]"'):
        run(options(shards))


@pytest.mark.parametrize("group", ["encoder", "search"])
def test_every_choice_builds(group, tmp_path):
    for file in (CONFIGS / group).glob("*.yaml"):
        more = [f"encoder.name={save_clip(tmp_path)}"] if file.stem == "clip" else []
        made = build(compose("neighbors", ["out=x", f"{group}={file.stem}", *more])[group])
        assert isinstance(made, {"encoder": RetrievalEncoder, "search": NeighborSearch}[group])


def test_clips_of_other_weights_have_other_signatures(tmp_path):
    first = CLIPRetrieval(str(save_clip(tmp_path / "a")))
    again = CLIPRetrieval(str(tmp_path / "a"))
    torch.manual_seed(1)
    other = CLIPRetrieval(str(save_clip(tmp_path / "b")))
    assert first.signature == again.signature != other.signature
    image = torch.rand(3, 3, 16, 16) * 2 - 1
    found = first.embed_images(image)
    torch.testing.assert_close(found, F.normalize(first.clip.embed_images(image)))
    assert not found.requires_grad
    with pytest.raises(FileNotFoundError, match=r"no CLIP model '/nowhere'.*set encoder.name=FOLDER"):
        CLIPRetrieval("/nowhere")
