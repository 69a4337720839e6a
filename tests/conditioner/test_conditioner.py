import copy

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoConfig,
    BertConfig,
    BertModel,
    CLIPTextConfig,
    CLIPTextModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
    T5ForConditionalGeneration,
    T5Tokenizer,
)

from ldm.conditioner.huggingface import HuggingFaceConditioner
from ldm.conditioner.text import cut_captions, cut_prompts
from ldm.conditioner.transformer import TransformerConditioner, learn_tokenizer
from ldm.config import build, compose, resolved
from ldm.pretrained.tokens import encode_texts
from tests.conftest import scramble

CAPTIONS = [
    f"a {color} {icon} on a white background" for color in ("red", "blue") for icon in ("cat", "heart", "sailboat")
]
SMALL = {"width": 16, "depth": 2, "heads": 2, "head_width": 8, "max_tokens": 12, "vocabulary": 400}


def said(captions):
    return {"caption": list(captions)}


@pytest.fixture
def conditioner():
    made = scramble(TransformerConditioner(**SMALL))
    made.prepare([said(CAPTIONS)])
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
    condition = conditioner(said(["a cat", "a " * 50, ""]))
    assert condition.tokens.shape == (3, 12, 16)
    assert condition.mask.sum(1).tolist() == [4, 12, 2]


def test_a_caption_gives_the_same_tokens_in_any_batch(conditioner):
    alone, together = conditioner(said(["a red cat"])), conditioner(said(["a", "a red cat", CAPTIONS[0]]))
    torch.testing.assert_close(alone.tokens[0, :5], together.tokens[1, :5])


def test_words_after_the_caption_do_not_matter(conditioner):
    """With the mask, the caption's tokens do not depend on what padding holds."""
    ids = torch.tensor([[1, 50, 60, 2, 0, 0]])
    other = torch.tensor([[1, 50, 60, 2, 9, 8]])
    mask = torch.tensor([[True, True, True, True, False, False]])
    torch.testing.assert_close(
        conditioner.encode_ids(ids, mask).tokens[:, :4], conditioner.encode_ids(other, mask).tokens[:, :4]
    )


def test_state_dict_carries_the_tokenizer(conditioner):
    again = TransformerConditioner(**SMALL)
    with pytest.raises(RuntimeError, match="no tokenizer yet"):
        again(said(["a cat"]))
    again.load_state_dict(conditioner.state_dict())
    assert all(isinstance(value, torch.Tensor) for value in conditioner.state_dict().values())
    torch.testing.assert_close(again(said(CAPTIONS)).tokens, conditioner(said(CAPTIONS)).tokens, rtol=0, atol=0)


@pytest.mark.parametrize("text", ["<pad>", "a <end> cat", "<start>"])
def test_special_tokens_in_a_caption_are_text(conditioner, text):
    """Also for a tokenizer from a checkpoint, and for one that was learned from such captions."""
    again = TransformerConditioner(**SMALL)
    again.load_state_dict(conditioner.state_dict())
    learned = TransformerConditioner(**SMALL)
    learned.prepare([said(CAPTIONS), said([text] * 5)])
    for made in (conditioner, again, copy.deepcopy(conditioner), learned):
        (encoding,) = encode_texts(made.tokenizer, [text])
        inside = [token for token, special in zip(encoding.tokens, encoding.special_tokens_mask) if not special]
        assert not {"<pad>", "<start>", "<end>"} & set(inside)
        assert made(said([text])).mask.sum() == len(inside) + 2


def test_ids_of_other_captions_are_what_they_were(conditioner):
    before = Tokenizer.from_str(conditioner.tokenizer.to_str())
    texts = [*CAPTIONS, "", "a < b > c", "Grüße 🐕", "a " * 50]
    after = encode_texts(conditioner.tokenizer, texts)
    assert [encoding.ids for encoding in after] == [encoding.ids for encoding in before.encode_batch(texts)]


def test_special_tokens_that_are_pieces_of_words_too_are_text():
    """As in T5's vocabulary."""
    tokenizer = Tokenizer(
        models.Unigram([("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((c, -2.0) for c in "ab▁ </s>")], 2)
    )
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in ("<pad>", "</s>", "<unk>")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    ended, plain, unknown = (encoding.ids for encoding in encode_texts(tokenizer, ["a </s> b", "a b", "a x"]))
    assert ended.count(1) == plain.count(1) == 1
    assert 2 in unknown
    assert plain == tokenizer.encode("a b").ids


def test_what_is_cut_away_is_reported(conditioner):
    texts = ["a red cat", "a red cat on a white background and a blue heart and a red sailboat", ""]
    cut = conditioner.overflow(texts)
    assert [bool(rest) for rest in cut] == [False, True, False]
    kept = texts[1].removesuffix(cut[1])
    assert len(kept) < len(texts[1])
    assert conditioner.overflow([kept]) == [""], "what stays fits"
    longer = encode_texts(conditioner.tokenizer, [kept + cut[1].split()[0]])[0]
    assert longer.overflowing, "and not a word more"
    warning = cut_captions(conditioner, (said([text]) for text in texts))
    assert warning.startswith("1 of 3 captions looked at are longer than conditioner.max_tokens allows")
    assert repr(cut[1]) in warning
    assert cut_captions(conditioner, [said(texts[:1])]) is None
    warnings = list(cut_prompts(conditioner, [*texts, *texts, "a cat " * 200]))
    assert len(warnings) == 2, "once for each prompt"
    assert f"cut away is {cut[1]!r}" in warnings[0]
    assert len(warnings[1]) < 500


@pytest.mark.parametrize(
    ("option", "value"), [("max_tokens", 2), ("vocabulary", 258), ("depth", -1), ("heads", 0), ("mask_padding", 1)]
)
def test_options_that_cannot_be_are_refused(option, value):
    with pytest.raises(ValueError, match=f"conditioner.{option}={value} cannot be; give "):
        TransformerConditioner(**{**SMALL, option: value})


def test_dropped_captions_are_empty_ones_and_one_number_an_image_is_drawn(conditioner):
    conditioner.drop_rate = 0.5
    torch.manual_seed(0)
    dropped, after = (torch.rand(len(CAPTIONS)) < 0.5).tolist(), torch.rand(1)
    torch.manual_seed(0)
    got = conditioner.with_dropout(said(CAPTIONS))
    assert torch.equal(torch.rand(1), after)
    assert 0 < sum(dropped) < len(CAPTIONS)
    left = ["" if drop else caption for caption, drop in zip(CAPTIONS, dropped)]
    assert torch.equal(got.tokens, conditioner(said(left)).tokens)
    nothing = conditioner(said([""] * len(CAPTIONS)))
    assert torch.equal(conditioner.null(said(CAPTIONS)).tokens, nothing.tokens)
    with pytest.raises(
        ValueError, match="conditioner.drop_rate=1.5 cannot be; give a finite number, at least 0, at most 1"
    ):
        TransformerConditioner(**SMALL, drop_rate=1.5)


def test_gradients_reach_every_weight(conditioner):
    conditioner(said(CAPTIONS)).tokens.square().sum().backward()
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
def test_an_encoder_without_its_tokenizer_is_refused(tmp_path, kind):
    """For some models transformers makes one up that distinguishes no words."""
    save_pretrained(tmp_path, kind)
    for file in tmp_path.glob("*token*"):
        file.unlink()
    with pytest.raises(FileNotFoundError, match="no text encoder .*it has no files of a tokenizer"):
        HuggingFaceConditioner(str(tmp_path), width=16, max_tokens=10).prepare(None)


@pytest.mark.parametrize("kind", ["bert", "clip", "t5"])
def test_huggingface_encoder_from_a_folder(tmp_path, kind):
    theirs = save_pretrained(tmp_path / kind, kind)
    conditioner = HuggingFaceConditioner(str(tmp_path / kind), width=16, max_tokens=10)
    conditioner.prepare(None)
    condition = conditioner.train()(said(CAPTIONS[:2]))
    ids = torch.tensor([e.ids for e in conditioner.tokenizer.encode_batch(CAPTIONS[:2])])
    with torch.no_grad():
        expected = theirs(input_ids=ids, attention_mask=condition.mask.long()).last_hidden_state
    torch.testing.assert_close(condition.tokens, expected)
    assert condition.mask.sum(1).tolist() == [8, 8]
    assert not any(p.requires_grad for p in conditioner.parameters())

    again = HuggingFaceConditioner("a folder that is gone", width=16, max_tokens=10)
    again.load_state_dict(conditioner.state_dict())
    torch.testing.assert_close(again(said(CAPTIONS[:2])).tokens, condition.tokens, rtol=0, atol=0)


def test_padding_is_attended_to_as_by_stable_diffusion(tmp_path):
    theirs = save_pretrained(tmp_path / "clip", "clip")
    made = [
        HuggingFaceConditioner(str(tmp_path / "clip"), width=16, max_tokens=10, mask_padding=wanted)
        for wanted in (True, False)
    ]
    for conditioner in made:
        conditioner.prepare(None)
    masked, unmasked = made
    texts = [*CAPTIONS[:2], "a cat", ""]
    ids = torch.tensor([encoding.ids for encoding in unmasked.tokenizer.encode_batch(texts)])
    with torch.no_grad():
        torch.testing.assert_close(unmasked(said(texts)).tokens, theirs(ids).last_hidden_state, rtol=0, atol=0)
    assert unmasked(said(texts)).mask is None
    assert not torch.allclose(masked(said(texts)).tokens, unmasked(said(texts)).tokens)
    assert masked.frozen_hash != unmasked.frozen_hash
    assert unmasked.overflow(["a red cat on a white background and a blue one"]) == ["blue one"]
    (ended,) = encode_texts(unmasked.tokenizer, ["a [END] cat [PAD]"])
    assert ended.ids.count(2) == 1, "in a caption, a special token is text"


@pytest.mark.parametrize("layer", [-1, -2])
@pytest.mark.parametrize("kind", ["clip", "t5", "bert"])
def test_an_earlier_layer_is_taken_and_the_final_norm_stays(tmp_path, kind, layer):
    theirs = save_pretrained(tmp_path, kind)
    made = HuggingFaceConditioner(str(tmp_path), width=16, max_tokens=10, mask_padding=False, layer=layer)
    made.prepare(None)
    ids = torch.tensor([encoding.ids for encoding in made.tokenizer.encode_batch(CAPTIONS)])
    with torch.no_grad():
        expected = theirs(input_ids=ids, output_hidden_states=True)
    norms = {"clip": lambda: theirs.final_layer_norm, "t5": lambda: theirs.encoder.final_layer_norm}
    hidden = expected.hidden_states[layer]
    if layer == -2:  # transformers gives the last one normed already, the others not
        hidden = norms.get(kind, torch.nn.Identity)()(hidden)
    elif kind == "clip":
        hidden = expected.last_hidden_state
    torch.testing.assert_close(made(said(CAPTIONS)).tokens, hidden)

    again = HuggingFaceConditioner("a folder that is gone", width=16, max_tokens=10, mask_padding=False, layer=layer)
    again.load_state_dict(made.state_dict())
    torch.testing.assert_close(again(said(CAPTIONS)).tokens, made(said(CAPTIONS)).tokens, rtol=0, atol=0)
    assert len(theirs.state_dict()) > len(made.encoder.state_dict()) or layer == -1, "the last layer is left out"


@pytest.mark.parametrize(("choice", "layer", "width"), [("clip_l", -1, 768), ("openclip_h", -2, 1024)])
def test_the_text_encoders_of_stable_diffusion_are_presets(tmp_path, choice, layer, width):
    config = resolved(compose("train", ["experiment=txt2img", f"conditioner={choice}"]).conditioner)
    assert (config["layer"], config["width"], config["max_tokens"]) == (layer, width, 77)
    theirs = save_pretrained(tmp_path, "clip")
    made = build({**config, "name": str(tmp_path), "width": 16, "max_tokens": 10, "pad_token": "[UNK]"})
    made.prepare(None)
    condition = made(said(["a cat"]))
    assert condition.mask is None, "all tokens are attended to, padding included"
    (encoding,) = encode_texts(made.tokenizer, ["a cat"])
    assert encoding.tokens == ["a", "cat", "[END]"] + ["[UNK]"] * 7
    with torch.no_grad():
        found = theirs(input_ids=torch.tensor([encoding.ids]), output_hidden_states=True)
        expected = found.last_hidden_state if layer == -1 else theirs.final_layer_norm(found.hidden_states[-2])
    torch.testing.assert_close(condition.tokens, expected)


def test_flan_t5_is_a_preset_and_padding_changes_no_token_of_a_caption(tmp_path):
    """The folder holds encoder and decoder, as the published one does; of captions one by one, transformers pads nothing."""
    pieces = [
        ("<pad>", 0.0),
        ("</s>", 0.0),
        ("<unk>", 0.0),
        ("▁", -2.0),
        *((letter, -6.0) for letter in "abcdehiklnorstuw"),
    ]
    pieces += [(f"▁{word}", -3.0) for word in sorted({word for caption in CAPTIONS for word in caption.split()})]
    tokenizer = T5Tokenizer(vocab=pieces, extra_ids=2)
    tokenizer.save_pretrained(tmp_path)
    shape = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2}
    whole = T5ForConditionalGeneration(
        T5Config(**shape, vocab_size=len(tokenizer), feed_forward_proj="gated-gelu", decoder_start_token_id=0)
    )
    whole.save_pretrained(tmp_path)
    config = resolved(compose("train", ["experiment=txt2img", "conditioner=flan_t5_large"]).conditioner)
    assert (config["name"], config["width"], config["max_tokens"]) == ("google/flan-t5-large", 1024, 120)
    made = build({**config, "name": str(tmp_path), "width": 16, "max_tokens": 12})
    made.prepare(None)
    texts = [*CAPTIONS, "a cat", "", "a boat", "a cat " * 20]
    condition = made(said(texts))
    assert condition.tokens.shape == (len(texts), 12, 16)
    theirs = whole.get_encoder().eval()
    for text, tokens, mask in zip(texts, condition.tokens, condition.mask, strict=True):
        ids = tokenizer(text, return_tensors="pt", truncation=True, max_length=12).input_ids
        length = ids.shape[1]
        assert mask.tolist() == [True] * length + [False] * (12 - length)
        with torch.no_grad():
            torch.testing.assert_close(tokens[:length], theirs(ids).last_hidden_state[0])
    assert condition.mask.sum(1).tolist()[-4:] == [3, 1, 7, 12], (
        "the end token is one of them, also of a caption that is cut"
    )
    assert made.overflow(["a cat " * 7]) == ["cat a cat"]
    assert made(said(["a cat </s>"])).mask.sum() > 3, "in a caption, a special token is text"


def test_huggingface_errors(tmp_path, monkeypatch):
    def offline(*_, **__):
        raise OSError("no connection\nand more")

    with monkeypatch.context() as patch:
        patch.setattr(AutoConfig, "from_pretrained", offline)
        with pytest.raises(
            FileNotFoundError,
            match=r"no text encoder 'google/flan-t5-large': .*\(no connection\); with internet, python -m ldm.fetch "
            r"flan_t5_large brings it; set conditioner.name=FOLDER, or .* conditioner=transformer",
        ):
            HuggingFaceConditioner("google/flan-t5-large", width=1024).prepare(None)
    with pytest.raises(FileNotFoundError, match=r"no text encoder .*conditioner.name=FOLDER"):
        HuggingFaceConditioner(str(tmp_path / "nowhere"), width=16).prepare(None)
    save_pretrained(tmp_path / "bert", "bert")
    with pytest.raises(ValueError, match="have width 16; set conditioner.width=16"):
        HuggingFaceConditioner(str(tmp_path / "bert"), width=24).prepare(None)
    with pytest.raises(ValueError, match="max_tokens=1 leaves no place for a caption: 1 tokens"):
        HuggingFaceConditioner(str(tmp_path / "bert"), width=16, max_tokens=1).prepare(None)
    with pytest.raises(ValueError, match="max_tokens=513 is more than the 512 tokens .* give at most 512"):
        HuggingFaceConditioner(str(tmp_path / "bert"), width=16, max_tokens=513).prepare(None)
    with pytest.raises(ValueError, match="conditioner.layer=-3, but .* has 2 layers; give -2 to -1"):
        HuggingFaceConditioner(str(tmp_path / "bert"), width=16, layer=-3).prepare(None)
    with pytest.raises(ValueError, match="conditioner.layer=0 cannot be"):
        HuggingFaceConditioner(str(tmp_path / "bert"), width=16, layer=0)
    with pytest.raises(ValueError, match="has no padding token 'nothing'; set conditioner.pad_token"):
        HuggingFaceConditioner(str(tmp_path / "bert"), width=16, pad_token="nothing").prepare(None)
