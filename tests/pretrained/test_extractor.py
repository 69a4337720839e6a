import sys

import pytest

from ldm.pretrained.efficientnet import EfficientNetLite0
from ldm.pretrained.inception import Inception


def test_offline_distance_is_never_called_fid():
    assert EfficientNetLite0.name != Inception.name == "fid"


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
