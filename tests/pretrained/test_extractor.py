import sys
import types

import pytest
import torch

from ldm.metric.frechet import Frechet
from ldm.pretrained.efficientnet import EfficientNetLite0
from ldm.pretrained.inception import Inception


def test_offline_distance_is_never_called_fid():
    offline = Frechet(EfficientNetLite0(size=32))
    assert offline.names == ["frechet_efficientnet"]
    assert Inception.name == "inception" != offline.extractor.name


def test_inception_says_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(FileNotFoundError, match="no Inception weights at"):
        Inception(weights=tmp_path / "none.pth")
    (tmp_path / "some.pth").touch()
    with pytest.raises(ModuleNotFoundError, match=r"pip install -e '.\[fid\]', or choose metric=offline"):
        Inception(weights=tmp_path / "some.pth")


def test_a_side_too_small_for_the_extractor_is_refused():
    with pytest.raises(
        ValueError, match=r"metric.frechet_efficientnet.extractor.size=16 cannot be; give a whole number"
    ):
        EfficientNetLite0(size=16)


class Stranger:
    pass


@pytest.fixture
def fidelity(monkeypatch):
    """A stand-in for torch-fidelity's network, which notes the file that it is given; the real one needs torchvision."""
    given = []
    module = types.ModuleType("torch_fidelity.feature_extractor_inceptionv3")

    class Network(torch.nn.Module):
        def __init__(self, name, features, feature_extractor_weights_path):
            super().__init__()
            given.append((name, features, feature_extractor_weights_path))

    module.FeatureExtractorInceptionV3 = Network
    monkeypatch.setitem(sys.modules, "torch_fidelity", types.ModuleType("torch_fidelity"))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return given


def test_inception_takes_the_cached_file_or_a_named_one(fidelity, tmp_path, monkeypatch):
    file = tmp_path / "checkpoints" / "weights-inception-2015-12-05-6726825d.pth"

    def download(url, place, *, hash_prefix):
        assert hash_prefix == "6726825d"
        torch.save({"weight": torch.zeros(2)}, place)

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    Inception()
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *_, **__: pytest.fail("it is there"))
    Inception()
    Inception(weights=file)
    assert fidelity == [("inception-v3-compat", ["2048"], str(file))] * 3


def test_inception_that_cannot_be_downloaded_is_told_with_what_to_do(fidelity, tmp_path, monkeypatch):
    def download(*_, **__):
        raise OSError("no connection")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    with pytest.raises(
        FileNotFoundError,
        match=r"\(no connection\).* `python -m ldm.fetch inception`, .*extractor.weights=FILE, or .*offline",
    ):
        Inception()


def test_inception_weights_that_hold_code_are_not_given_on(fidelity, tmp_path):
    """torch-fidelity reads them with pickle."""
    torch.save({"weight": Stranger()}, tmp_path / "a.pth")
    (tmp_path / "b.pth").write_bytes(b"no weights")
    (tmp_path / "c.pth").touch()
    for name in "abc":
        with pytest.raises(ValueError, match=f"{name}.pth does not hold weights alone"):
            Inception(weights=tmp_path / f"{name}.pth")
    assert not fidelity
