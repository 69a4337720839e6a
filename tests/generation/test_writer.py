"""The grid of sampled images, and what is said where sampling is interrupted."""

import logging

import pytest
import torch
from PIL import Image

from ldm.generation.folder import SampleFolder
from ldm.generation.request import SampleRequest
from ldm.generation.writer import generate, grid_columns


def requests(count, seeds, **fields):
    return [
        SampleRequest(f"{label}-{seed}.png", seed=seed, inputs={"label": label}, **fields)
        for label in range(count)
        for seed in range(seeds)
    ]


@pytest.mark.parametrize(
    ("count", "seeds", "columns"),
    [(12, 2, 4), (3, 4, 4), (10, 8, 8), (5, 3, 3), (20, 3, 9), (1, 9, None), (6, 1, None), (64, 1, None)],
)
def test_images_of_one_condition_are_in_one_row(count, seeds, columns):
    found = grid_columns(requests(count, seeds))
    assert found == columns
    assert found is None or found % seeds == 0


def test_where_conditions_have_different_numbers_of_images_nothing_is_arranged():
    assert grid_columns(requests(4, 2)[:7]) is None
    assert grid_columns([]) is None


def no_pictures(request):
    return torch.zeros(3, 0, 4)


@pytest.mark.parametrize("finished", [0, 1])
def test_an_interrupted_command_says_how_many_images_are_there(tmp_path, caplog, finished):
    calls = []

    def make(chunk):
        if len(calls) == finished:
            raise KeyboardInterrupt
        calls.append(len(chunk))
        return torch.zeros(len(chunk), 3, 4, 4)

    asked = [SampleRequest(f"0000{seed}.png", seed=seed) for seed in range(5)]
    with caplog.at_level(logging.WARNING), pytest.raises(KeyboardInterrupt):
        generate(make, asked, SampleFolder(tmp_path / "out"), condition_pictures=no_pictures, settings={}, batch_size=2)
    said = f"2 of 5 images are in {tmp_path / 'out'}; the same command makes all of them again"
    assert caplog.messages == [said] * finished
    assert sum(1 for _ in (tmp_path / "out").glob("*.png")) == 2 * finished


def test_no_image_is_left_in_part_where_the_disk_is_full(tmp_path, monkeypatch):
    save, folder = Image.Image.save, tmp_path / "out"

    def full(self, file, **options):
        save(self, file, **options)
        if "00001" in str(file):
            with open(file, "r+b") as part:
                part.truncate(20)
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    asked = [SampleRequest(f"0000{seed}.png", seed=seed) for seed in range(2)]
    with pytest.raises(OSError, match="No space left"):
        generate(
            lambda chunk: torch.zeros(len(chunk), 3, 4, 4),
            asked,
            SampleFolder(folder),
            condition_pictures=no_pictures,
            settings={},
        )
    assert sorted(path.name for path in folder.iterdir() if path.name != ".lock") == ["00000.png", "samples.jsonl"]
