"""Measuring the images of a folder: of any sizes, broken ones left out, measured anew where they have changed."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from hydra.errors import InstantiationException

from ldm.config import compose
from ldm.evaluate.program import evaluate
from ldm.files.picture import to_picture
from tests.data.small_shards import encoded, write_tar
from tests.evaluate.test_generation import OFFLINE


@pytest.fixture
def photos(tmp_path):
    generator = torch.Generator().manual_seed(0)
    (tmp_path / "photos").mkdir()
    for number in range(70):
        image = torch.rand(3, 16, 16, generator=generator) * 2 - 1
        to_picture(image).save(tmp_path / "photos" / f"{number:02d}.png")
    return tmp_path / "photos"


@pytest.fixture
def measured(tmp_path, photos):
    real = shutil.copytree(photos, tmp_path / "real")

    def run(*options, images=photos, reference=real, out="scores"):
        chosen = [] if any(option.startswith("protocol=") for option in options) else ["metric=offline"]
        given = [f"images={images}", f"reference={reference}", f"cache={tmp_path / 'cache'}", f"out={tmp_path / out}"]
        places = [f"data.cache={tmp_path / 'index'}"]
        return evaluate(compose("evaluate", [*chosen, "device=cpu", *given, *places, *options]))[0]

    return run


def truncate(file):
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    return whole


def test_broken_images_are_left_out_and_counted_and_measured_once_they_are_mended(tmp_path, photos, measured, caplog):
    caplog.set_level("INFO")
    whole = truncate(photos / "03.png")
    (photos / "04.png").write_bytes(b"no picture")
    found = measured()
    assert (found["count"], found["broken"]) == (68, 2)
    assert "68 images of 16 x 16 pixels (2 broken ones left out)" in (tmp_path / "scores" / "results.md").read_text()
    assert "03.png cannot be read as an image" in caplog.text
    parts = sorted((tmp_path / "scores" / "parts").rglob("*.safetensors"))
    times = [part.stat().st_mtime_ns for part in parts]
    (photos / "03.png").write_bytes(whole)
    mended = measured()
    assert (mended["count"], mended["broken"]) == (69, 1)
    changed = [part.stat().st_mtime_ns != time for part, time in zip(parts, times, strict=True)]
    assert changed == [True, False], "only the part with the mended image is measured anew"
    kept = json.loads((tmp_path / "scores" / "results-68.json").read_text())
    assert kept["scores"] == found["scores"]


def test_a_copied_folder_is_the_same(tmp_path, photos, measured, caplog):
    caplog.set_level("INFO")
    first = measured()
    for file in photos.iterdir():
        os.utime(file, (1, 1))
    copied = shutil.copytree(photos, tmp_path / "copied", copy_function=shutil.copyfile)
    again = measured(images=copied)
    assert "all images are there" in caplog.text
    assert again["scores"] == first["scores"]
    assert not list((tmp_path / "scores").glob("results-*.json"))


@pytest.mark.slow
def test_broken_real_images_are_left_out(tmp_path, photos, measured):
    samples = [(f"{file.stem}.{ending}", data) for file in sorted(photos.iterdir())[:9]
               for ending, data in (("png", file.read_bytes()), ("txt", b"x"))]  # fmt: skip
    samples += [("99.png", samples[0][1][:200]), ("99.txt", b"x")]
    truncate(tmp_path / "real" / "00.png")
    for reference in (write_tar(tmp_path / "val.tar", samples), tmp_path / "real"):
        found = measured("metric=precision_recall_offline", reference=reference, out=f"of-{Path(reference).stem}")
        assert found["scores"]["precision_efficientnet"] > 0


@pytest.mark.slow
def test_images_of_several_sizes_are_measured_as_they_are_and_a_doubt_says_so(tmp_path, photos, measured):
    (photos / "00.png").write_bytes(encoded(to_picture(torch.zeros(3, 24, 40))))
    found = measured()
    assert found["doubts"][0].startswith("the images are of 2 sizes, from 16 to [24,40], and each is measured as it is")
    assert found["size"] is None
    assert "70 images of several sizes" in (tmp_path / "scores" / "results.md").read_text()
    one = measured("size=16", out="one")
    assert one["size"] == [16, 16]
    assert not any("sizes" in doubt for doubt in one["doubts"])
    assert one["scores"] != found["scores"]
    shard = write_tar(tmp_path / "val.tar", [("0.png", (photos / "01.png").read_bytes()), ("0.txt", b"x")])
    with pytest.raises(ValueError, match="the images are of several sizes, and those of reference=.* give size="):
        measured(reference=shard, out="new")
    assert not (tmp_path / "new").exists()


def test_images_that_are_all_the_same_have_no_distance_and_the_command_says_why(tmp_path, photos, measured):
    same = tmp_path / "same"
    same.mkdir()
    for number in range(5):
        shutil.copy(photos / "00.png", same / f"{number}.png")
    with pytest.raises(
        ValueError, match=r"the features of all 5 generated images are the same.*all other scores are in "
    ):
        measured(images=same)
    written = json.loads((tmp_path / "scores" / "results.json").read_text())
    assert written["scores"] == {"frechet_efficientnet": None}
    assert "- frechet_efficientnet means nothing here" in (tmp_path / "scores" / "results.md").read_text()


@pytest.mark.slow
def test_statistics_that_were_written_are_those_of_the_images(tmp_path, photos, measured):
    real = shutil.copytree(photos, tmp_path / "half")
    for file in sorted(real.iterdir())[:35]:
        file.unlink()
    file = tmp_path / "real.npz"
    measured(f"statistics={file}", images=real, reference=photos, out="statistics")
    of_images = measured(reference=real)["scores"]
    of_file = measured(reference=file, out="of-file")["scores"]
    assert of_file == pytest.approx(of_images, rel=1e-6)
    before = file.read_bytes()
    for options, message in (
        ([f"statistics={file}"], "is there, and nothing was changed"),
        (["statistics=real.txt"], "only .npz and .pt are known"),
        (
            ["statistics=new.npz", "metric=inception_score"],
            "Inception needs weights-inception-2015-12-05-6726825d.pth in torch's cache",
        ),
        (
            ["statistics=new.npz", f"+metric={{b:{OFFLINE.replace('64', '32')}}}"],
            "of the features of one network",
        ),
    ):
        with pytest.raises((ValueError, OSError, InstantiationException), match=message):
            measured(*options, out="new")
        assert not (tmp_path / "new").exists()
    assert file.read_bytes() == before


def test_none_that_can_be_read_is_an_error(tmp_path, measured):
    (tmp_path / "none").mkdir()
    for number in range(3):
        (tmp_path / "none" / f"{number}.png").write_bytes(b"x")
    with pytest.raises(ValueError, match="none of the 3 images can be read"):
        measured(images=tmp_path / "none")
    found = measured()
    assert found["count"] == 70, "and the next evaluation is not refused"


def test_a_folder_of_another_kind_is_refused_in_words(tmp_path, measured):
    (tmp_path / "scores").mkdir()
    request = dict.fromkeys(("model", "sampler", "guidance", "conditions", "seed", "size"), "x")
    (tmp_path / "scores" / "evaluation.json").write_text(json.dumps(request))
    with pytest.raises(
        ValueError, match="holds images that a model has made, and what is asked for are measurements of"
    ):
        measured()


FOREIGN = {
    "results.json": '{"scores": {"fid": 3}}',
    "results-10.json": "[1, 2]",
    "results.md": "# My results",
    "grid.png": "picture",
    "evaluation.json": '{"images": ["a.png"]}',
}


def test_files_of_others_are_never_replaced(tmp_path, measured):
    """Not even beside our own, nor where they have our names."""

    def files():
        return {file: file.read_bytes() for file in (tmp_path / "scores").rglob("*") if file.is_file()}

    measured()
    ours = files()
    for name, text in FOREIGN.items():
        content = encoded(to_picture(torch.zeros(3, 8, 8))) if name.endswith(".png") else text.encode()
        file = tmp_path / "scores" / name
        file.write_bytes(content)
        with pytest.raises(ValueError, match=rf"holds what was not written by this program \({name}"):
            measured()
        assert files() == {**ours, file: content}
        if file in ours:
            file.write_bytes(ours[file])
        else:
            file.unlink()


@pytest.mark.slow
def test_scores_of_other_numbers_of_images_are_kept_and_come_back(tmp_path, measured):
    whole = measured()
    fewer = measured("num_images=20", "metric=[offline,inception_score_offline]")
    kept = json.loads((tmp_path / "scores" / "results-70.json").read_text())
    assert kept == whole
    assert fewer["count"] == 20
    back = measured("metric=inception_score_offline")
    assert back["count"] == 70
    assert back["scores"].items() > whole["scores"].items()
    assert json.loads((tmp_path / "scores" / "results-20.json").read_text()) == fewer


def test_of_images_of_a_folder_a_protocol_says_what_it_does_not_know(measured):
    metrics = ["~metric.fid", "~metric.inception_score", f"+metric={{frechet_efficientnet:{OFFLINE}}}"]
    found = measured("protocol=coco256_guided", *metrics)
    assert found["departures"] == ["how these images were made is not known here", "num_images: 30000 -> 70"]
