import pytest
import torch
from transformers import AutoTokenizer, CLIPModel

from ldm.config import build, compose
from ldm.metric.clip_score import CLIPSimilarity
from tests.conditioner.test_conditioner import CAPTIONS
from tests.metric.measured import Measured
from tests.pretrained.test_clip_score import save_clip


@pytest.fixture
def metric(tmp_path):
    folder = save_clip(tmp_path)
    config = compose("train", ["experiment=txt2img", "metric=[clip_score]", f"metric.clip_score.name={folder}"])
    return Measured(build(config.metric.clip_score))


def test_it_is_the_mean_cosine_of_clips_own_embeddings(metric, tmp_path):
    torch.manual_seed(0)
    images = torch.randint(0, 256, (3, 3, 16, 16)) / 127.5 - 1
    metric.update(images[:2], {"caption": CAPTIONS[:2]})
    metric.update(images[2:], {"caption": CAPTIONS[2:3]})
    network = CLIPModel.from_pretrained(tmp_path).eval()
    words = AutoTokenizer.from_pretrained(tmp_path)(CAPTIONS[:3], padding=True, return_tensors="pt")
    mean, std = (
        torch.tensor(part)[:, None, None]
        for part in ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
    )
    pixels = ((images + 1) / 2 - mean) / std
    with torch.no_grad():
        theirs = network(input_ids=words.input_ids, attention_mask=words.attention_mask, pixel_values=pixels)
    cosines = (theirs.image_embeds * theirs.text_embeds).sum(1)
    assert metric.compute() == {"clip_score": pytest.approx(float(cosines.mean()), abs=1e-6)}


def test_other_captions_have_another_score_and_precision_plays_no_part(metric):
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    scores = []
    for captions in (CAPTIONS[:2], CAPTIONS[1::-1], CAPTIONS[:2]):
        with torch.autocast("cpu", torch.bfloat16, enabled=len(scores) == 2):
            metric.update(images, {"caption": captions})
        scores.append(metric.compute()["clip_score"])
    assert scores[0] == scores[2] != scores[1]


def test_a_model_that_is_not_there_names_the_option(tmp_path):
    with pytest.raises(FileNotFoundError, match="set metric.clip_score.name=FOLDER"):
        CLIPSimilarity(str(tmp_path))
