import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import (
    BertConfig,
    BertModel,
    CLIPTextConfig,
    CLIPTextModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
)

from ldm.conditioner.huggingface import HuggingFaceConditioner
from ldm.conditioner.transformer import TransformerConditioner, learn_tokenizer
from tests.conftest import scramble

CAPTIONS = [
    f"a {color} {icon} on a white background" for color in ("red", "blue") for icon in ("cat", "heart", "sailboat")
]
SMALL = {"width": 16, "depth": 2, "heads": 2, "head_width": 8, "max_tokens": 12, "vocabulary": 400}


@pytest.fixture
def conditioner():
    made = scramble(TransformerConditioner(**SMALL))
    made.prepare(CAPTIONS)
    return made


def test_the_papers_text_transformer_has_its_parameters():
    with torch.device("meta"):
        network = TransformerConditioner(width=1280, depth=32, heads=8, head_width=64, max_tokens=77, vocabulary=30_522)
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(582.0 - 39.1, abs=0.05)


def test_tokenizer_is_learned_and_the_same_for_the_same_captions():
    first, second = (learn_tokenizer(iter(CAPTIONS), 400) for _ in range(2))
    assert first.to_str() == second.to_str()
    assert first.encode("A RED Cat on a white background").tokens == [
        "<start>",
        "Ġa",
        "Ġred",
        "Ġcat",
        "Ġon",
        "Ġa",
        "Ġwhite",
        "Ġbackground",
        "<end>",
    ]
    unseen = first.encode("ein grüner Hund 🐕").ids
    assert first.decode(unseen).strip() == "ein grüner hund 🐕", "bytes cover what was never seen"


def test_padding_and_truncation(conditioner):
    condition = conditioner(["a cat", "a " * 50, ""])
    assert condition.tokens.shape == (3, 12, 16)
    assert condition.mask.sum(1).tolist() == [4, 12, 2]


def test_a_caption_gives_the_same_tokens_in_any_batch(conditioner):
    alone, together = conditioner(["a red cat"]), conditioner(["a", "a red cat", CAPTIONS[0]])
    torch.testing.assert_close(alone.tokens[0, :5], together.tokens[1, :5])


def test_words_after_the_caption_do_not_matter(conditioner):
    """With the mask, the caption's tokens do not depend on what padding holds."""
    ids = torch.tensor([[1, 50, 60, 2, 0, 0]])
    other = torch.tensor([[1, 50, 60, 2, 9, 8]])
    mask = torch.tensor([[True, True, True, True, False, False]])
    torch.testing.assert_close(
        conditioner.encode(ids, mask).tokens[:, :4], conditioner.encode(other, mask).tokens[:, :4]
    )


def test_state_dict_carries_the_tokenizer(conditioner):
    again = TransformerConditioner(**SMALL)
    with pytest.raises(RuntimeError, match="no tokenizer yet"):
        again(["a cat"])
    again.load_state_dict(conditioner.state_dict())
    assert all(isinstance(value, torch.Tensor) for value in conditioner.state_dict().values())
    torch.testing.assert_close(again(CAPTIONS).tokens, conditioner(CAPTIONS).tokens, rtol=0, atol=0)


def test_gradients_reach_every_weight(conditioner):
    conditioner(CAPTIONS).tokens.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in conditioner.parameters())


def save_pretrained(folder, kind):
    tokenizer = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.train_from_iterator(CAPTIONS, trainers.WordLevelTrainer(special_tokens=["[PAD]", "[UNK]", "[END]"]))
    tokenizer.post_processor = processors.TemplateProcessing(single="$A [END]", special_tokens=[("[END]", 2)])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", eos_token="[END]"
    ).save_pretrained(folder)
    small = {
        "vocab_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "hidden_size": 16,
        "intermediate_size": 32,
    }
    encoder = {
        "bert": lambda: BertModel(BertConfig(**small)),
        "clip": lambda: CLIPTextModel(
            CLIPTextConfig(**small, max_position_embeddings=32, eos_token_id=2, bos_token_id=1, pad_token_id=0)
        ),
        "t5": lambda: T5EncoderModel(T5Config(vocab_size=64, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2)),
    }[kind]()
    encoder.save_pretrained(folder)
    return encoder.eval()


@pytest.mark.parametrize("kind", ["bert", "clip", "t5"])
def test_huggingface_encoder_from_a_folder(tmp_path, kind):
    theirs = save_pretrained(tmp_path / kind, kind)
    conditioner = HuggingFaceConditioner(str(tmp_path / kind), width=16, max_tokens=10)
    conditioner.prepare([])
    condition = conditioner.train()(CAPTIONS[:2])
    ids = torch.tensor([e.ids for e in conditioner.tokenizer.encode_batch(CAPTIONS[:2])])
    with torch.no_grad():
        expected = theirs(input_ids=ids, attention_mask=condition.mask.long()).last_hidden_state
    torch.testing.assert_close(condition.tokens, expected)
    assert condition.mask.sum(1).tolist() == [8, 8]
    assert not any(p.requires_grad for p in conditioner.parameters())

    again = HuggingFaceConditioner("a folder that is gone", width=16, max_tokens=10)
    again.load_state_dict(conditioner.state_dict())
    torch.testing.assert_close(again(CAPTIONS[:2]).tokens, condition.tokens, rtol=0, atol=0)


def test_huggingface_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no text encoder .*conditioner.name=FOLDER"):
        HuggingFaceConditioner(str(tmp_path / "nowhere"), width=16).prepare([])
    save_pretrained(tmp_path / "bert", "bert")
    with pytest.raises(ValueError, match="have width 16; set conditioner.width=16"):
        HuggingFaceConditioner(str(tmp_path / "bert"), width=24).prepare([])
