import hashlib

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save

from ldm.pretrained.published import HubModel, Use, WeightFile
from tests.fetch.hub import Hub

CONTENT = save({"weight": torch.arange(250_000.0)})
NAME = f"net-{hashlib.sha256(CONTENT).hexdigest()[:8]}.pth"
ABOUT = {"title": "a network", "megabytes": 1, "licence": "MIT"}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub with a model, a file beside it, and empty caches; nothing else is asked."""
    files = {
        "main/config.json": b"{}",
        "main/vocab.txt": b"a\n",
        "main/model.safetensors": CONTENT,
        "main/pytorch_model.bin": b"code",
        "main/onnx/config.json": b"{}",
        NAME: CONTENT,
    }
    server = Hub(files)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", f"{server.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "torch"))
    yield server
    server.close()


@pytest.fixture
def model():
    return HubModel(
        name="model", uses=(Use("train", "conditioner=clip_l", "conditioner.name"),), repository="a/b", **ABOUT
    )


@pytest.fixture
def file(hub):
    uses = (Use("train", "perceptual=lpips", "perceptual.vgg16"),)
    return WeightFile(name="file", uses=uses, url=f"{hub.url}/{NAME}", **ABOUT)
