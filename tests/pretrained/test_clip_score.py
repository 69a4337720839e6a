import pytest
import torch
import torch.nn.functional as F
from transformers import AutoTokenizer, CLIPConfig, CLIPModel

from ldm.config import build, compose
from ldm.pretrained.clip_score import CLIPScore
from tests.conditioner.test_conditioner import CAPTIONS, save_pretrained
from tests.deterministic import Deterministic
from tests.guidance.models import with_and_without


@pytest.fixture
def folder(tmp_path):
    return save_clip(tmp_path)


def save_clip(folder):
    """A CLIP of few random weights, as the hub's lie on disk."""
    save_pretrained(folder, "clip")
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**sizes, "vocab_size": 64, "max_position_embeddings": 32, "eos_token_id": 2, "bos_token_id": 1}
    vision = {**sizes, "image_size": 16, "patch_size": 4}
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).save_pretrained(folder)
    return folder


def test_the_score_is_clips_own(folder):
    score = CLIPScore(str(folder), strength=7.0)
    image = torch.rand(3, 3, 16, 16) * 2 - 1
    mean, std = (
        torch.tensor(part)[:, None, None]
        for part in ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
    )
    words = AutoTokenizer.from_pretrained(folder)(CAPTIONS[:3], padding=True, return_tensors="pt")
    pixels = ((image + 1) / 2 - mean) / std
    network = CLIPModel.from_pretrained(folder).eval()
    with torch.no_grad():
        theirs = network(input_ids=words.input_ids, attention_mask=words.attention_mask, pixel_values=pixels)
    expected = 7.0 * theirs.logits_per_image.diagonal() / network.logit_scale.exp()
    torch.testing.assert_close(score.log_likelihood(image, CAPTIONS[:3]), expected)


def test_special_tokens_in_a_prompt_are_text(folder):
    """As other signs and letters that the tokenizer does not know."""
    score, image = CLIPScore(str(folder)), torch.rand(1, 3, 16, 16).expand(2, -1, -1, -1)
    special, other = score.log_likelihood(image, ["a [END] cat", "a ( zzz ) cat"])
    assert special == other


def test_what_clip_cuts_away_from_a_prompt_is_reported_once(folder, caplog):
    score, image = CLIPScore(str(folder)), torch.rand(2, 3, 16, 16)
    score.tokenizer.model_max_length = 4
    for _ in range(2):
        score.log_likelihood(image, ["a red cat on a white background", "a red cat"])
    assert caplog.messages == [
        "the prompt 'a red cat on a white background' is longer than CLIP takes; cut away is 'on a white background'"
    ]


def test_its_gradient_leads_up_for_images_of_any_size(folder):
    score = CLIPScore(str(folder))
    image = (torch.rand(2, 3, 40, 40) - 0.5).requires_grad_()
    before = score.log_likelihood(image, CAPTIONS[:2])
    with Deterministic():
        (slope,) = torch.autograd.grad(before.sum(), image)
    assert slope.isfinite().all()
    after = score.log_likelihood(image + 0.05 * F.normalize(slope.flatten(1)).view_as(image), CAPTIONS[:2])
    assert (after > before).all()
    assert not any(part.requires_grad for part in score.network.parameters())


def test_images_are_guided_towards_their_prompts(folder):
    guidance = build(compose("sample", ["ckpt=x", "guidance=clip", f"guidance.score.name={folder}"]).guidance)
    images = with_and_without(guidance, CAPTIONS[:4], size=16)
    guided, free = (guidance.score.log_likelihood(part, CAPTIONS[:4]) for part in images)
    assert (guided > free + 1).all()


def test_a_clip_that_is_not_there():
    with pytest.raises(FileNotFoundError, match=r"no CLIP model '/nowhere'.*guidance.score.name=FOLDER"):
        CLIPScore("/nowhere")


def test_prompts_are_embedded_once_for_all_steps(folder, monkeypatch):
    """Also where two ends are asked for in turn."""
    score, image, ends = CLIPScore(str(folder)), torch.rand(2, 3, 16, 16), (CAPTIONS[:2], CAPTIONS[2:4])
    expected = [CLIPScore(str(folder)).log_likelihood(image, end) for end in ends]
    embedded = []
    monkeypatch.setattr(
        score,
        "embed_texts",
        lambda prompts, device: embedded.append(prompts) or CLIPScore.embed_texts(score, prompts, device),
    )
    for _ in range(3):
        for end, wanted in zip(ends, expected, strict=True):
            assert torch.equal(score.log_likelihood(image, end), wanted)
    assert embedded == list(ends)
    score.log_likelihood(image, CAPTIONS[1:3])
    assert len(embedded) == 3
