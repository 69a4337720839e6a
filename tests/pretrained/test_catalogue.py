"""All that is loaded from elsewhere is in the catalogue, and errors say how it is fetched."""

import re

import pytest
from omegaconf import OmegaConf

from ldm.config import CONFIGS
from ldm.pretrained.catalogue import CATALOGUE, MODELS, missing_model
from ldm.pretrained.clip_score import CLIPScore
from ldm.pretrained.depth import DepthNetwork
from ldm.pretrained.embedding import ImageEmbedder
from ldm.pretrained.published import HubModel, WeightFile
from ldm.pretrained.vision import VisionEncoder
from tests.cases import mostly_slow
from tests.configs import composed
from tests.conftest import ROOT

HUB_NAME = re.compile(r"^\s*(?:\w+: )?(?:name|encoder): *([\w.-]+/[\w.-]+)", re.MULTILINE)
USES = [(weights.name, use) for weights in CATALOGUE.values() for use in weights.uses]
FIRST = {
    "train": ["experiment=txt2img"],
    "sample": ["ckpt=x"],
    "neighbors": ["out=x"],
    "evaluate": ["ckpt=x", "out=x"],
}


def test_names_of_the_hub_in_configs_are_all_in_the_catalogue():
    named = {name for file in CONFIGS.rglob("*.yaml") for name in HUB_NAME.findall(file.read_text())}
    assert len(named) >= 5
    assert named <= {model.repository for model in MODELS}


def test_addresses_stand_in_the_catalogue_alone():
    addresses = re.compile(r"https?://[\w./-]+\.(?:pth|pt|bin|safetensors)\b")
    files = [path for path in (ROOT / "ldm").rglob("*.py") if addresses.search(path.read_text())]
    assert files == [ROOT / "ldm" / "pretrained" / "catalogue.py"]


@pytest.mark.parametrize(
    ("weights", "use"),
    mostly_slow(USES, ["inception", "depth", "clip_l"]),
    ids=[f"{weights}-{use.program}-{use.choice}" for weights, use in USES],
)
def test_every_use_is_an_option_and_loads_what_is_fetched(weights, use):
    weights = CATALOGUE[weights]
    config = composed(use.program, *FIRST[use.program], use.choice)
    default = OmegaConf.select(config, use.option, throw_on_missing=True)
    assert default in ((None, weights.repository) if isinstance(weights, HubModel) else (None,))
    assert weights.name == "depth" or isinstance(weights, WeightFile) or default is not None
    given = composed(use.program, *FIRST[use.program], use.choice, f"{use.option}=/a/folder")
    assert OmegaConf.select(given, use.option) == "/a/folder"


def test_files_have_their_hash_in_their_name():
    files = [weights for weights in CATALOGUE.values() if isinstance(weights, WeightFile)]
    assert files
    assert all(re.search(r"-[0-9a-f]{8}\.pth$", weights.url) for weights in files)


@pytest.mark.parametrize(
    ("name", "load"),
    [
        ("dinov2", VisionEncoder),
        ("clip_b32", CLIPScore),
        ("depth", lambda name: DepthNetwork(name, size=32).load()),
        ("clip_l", lambda name: ImageEmbedder(name).load()),
    ],
)
def test_what_is_missing_is_named_with_the_command_that_fetches_it(name, load, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        FileNotFoundError, match=rf"; with internet, python -m ldm.fetch {name} brings it; set .*name=FOLDER"
    ):
        load(CATALOGUE[name].repository)
    with pytest.raises(FileNotFoundError) as error:
        load(str(tmp_path / "nowhere"))
    assert "ldm.fetch" not in str(error.value)


def test_only_what_is_listed_is_hinted_at():
    texts = [
        str(missing_model("model", name, OSError("offline\nfor now"), advice="set name=FOLDER"))
        for name in ("google/flan-t5-large", "somebody/else")
    ]
    assert [text.partition("(offline); ")[2] for text in texts] == [
        "with internet, python -m ldm.fetch flan_t5_large brings it; set name=FOLDER",
        "set name=FOLDER",
    ]
