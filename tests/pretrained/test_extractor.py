import re

import pytest
import torch

from ldm.metric.frechet import Frechet
from ldm.pretrained.efficientnet import EfficientNetLite0
from ldm.pretrained.extractor import Extractor
from ldm.pretrained.inception import Inception
from ldm.pretrained.inception_network import InceptionV3


def test_offline_distance_is_never_called_fid():
    offline = Frechet(EfficientNetLite0(size=32))
    assert offline.names == ["frechet_efficientnet"]
    assert Inception.name == "inception" != offline.extractor.name


def test_inception_says_what_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match="no Inception weights at .*python -m ldm.fetch inception"):
        Inception(weights=tmp_path / "none.pth")


def test_a_side_too_small_for_the_extractor_is_refused():
    with pytest.raises(
        ValueError, match=r"metric.frechet_efficientnet.extractor.size=16 cannot be; give a whole number"
    ):
        EfficientNetLite0(size=16)


class Stranger:
    pass


def test_inception_takes_the_cached_file_or_a_named_one(tmp_path, monkeypatch):
    file = tmp_path / "checkpoints" / "weights-inception-2015-12-05-6726825d.pth"

    def download(url, place, *, hash_prefix):
        assert hash_prefix == "6726825d"
        torch.save(InceptionV3().state_dict(), place)

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    Inception()
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *_, **__: pytest.fail("it is there"))
    Inception(weights=file)


def test_inception_that_cannot_be_downloaded_is_reported_with_what_to_do(tmp_path, monkeypatch):
    def download(*_, **__):
        raise OSError("no connection")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    with pytest.raises(
        FileNotFoundError,
        match=r"\(no connection\).* `python -m ldm.fetch inception`, .*extractor.weights=FILE, or .*offline",
    ) as said:
        Inception()
    file = "weights-inception-2015-12-05-6726825d.pth"
    assert f"needs {file} in torch's cache, {tmp_path / 'checkpoints'}, " in str(said.value)
    assert re.search(f" download it from https://.*/{file} ", str(said.value))


def test_files_that_hold_code_or_other_weights_are_refused(tmp_path):
    torch.save({"weight": Stranger()}, tmp_path / "a.pth")
    (tmp_path / "b.pth").write_bytes(b"no weights")
    (tmp_path / "c.pth").touch()
    torch.save({"weight": torch.zeros(2)}, tmp_path / "d.pth")
    for name in "abcd":
        with pytest.raises(ValueError, match=f"{name}.pth does not hold the weights of the Inception network alone"):
            Inception(weights=tmp_path / f"{name}.pth")


@pytest.mark.parametrize("rounds", [True, False])
def test_levels_are_whole_or_as_they_come(rounds):
    class Levels(Extractor):
        def forward(self, images):
            return self.levels(images)

    extractor, images = Levels(), torch.tensor([-1.0, 0.001, 1.0])
    extractor.rounds = rounds
    torch.testing.assert_close(extractor(images).float(), torch.tensor([0.0, 128.0 if rounds else 127.6275, 255.0]))
