"""The paper's own transformer, of texts and of layouts, gives the numbers of CompVis' formulas and of diffusers."""

import pytest
import torch
import torch.nn.functional as F
from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import LDMBertConfig, LDMBertModel
from transformers import BertTokenizer

from ldm.config import compose, resolved
from ldm.interop.conditioner import names as layouts
from ldm.interop.conditioner.reading import read_compvis_conditioner, read_text_encoder
from ldm.interop.conditioner.text import TextSource, read_bert
from ldm.interop.translation import Translation
from tests.conditioner.small import fields_of
from tests.interop import checkpoints as made
from tests.interop.conditioner.parts import agree, conditioner_of, refused, tokens_of, without
from tests.interop.conditioner.vocabularies import CAPTIONS, WORDS, bert_files, clip_files, padded

WIDTH, DEPTH, HEADS, INNER, SIZE = 48, 2, 2, 128, 300
PREFIX = "cond_stage_model.transformer."


@pytest.fixture
def tokenizer(tmp_path):
    return str(bert_files(tmp_path / "vocabulary"))


def tensors_of(vocabulary=SIZE, positions=77):
    """Return tensors of CompVis' layout; embeddings of places are as large as those of tokens."""
    tensors = made.tensors_of(made.bert(WIDTH, DEPTH, vocabulary=vocabulary, positions=positions, inner=INNER))
    return {name: tensor * (5.0 if "_emb." in name else 1.0) for name, tensor in tensors.items()}


def x_transformer(tensors, ids):
    """CompVis' encoder, written out: pre-norm, 8 heads of 64 channels there and 2 here, no mask, a norm at the end."""
    own = {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items()}

    def norm(x, name):
        return F.layer_norm(x, x.shape[-1:], own[f"{name}.weight"], own[f"{name}.bias"])

    x = own["token_emb.weight"][ids] + own["pos_emb.emb.weight"][: ids.shape[1]]
    for layer in range(DEPTH):
        attend, feed = (f"attn_layers.layers.{2 * layer + part}" for part in (0, 1))
        y = norm(x, f"{attend}.0")
        query, key, value = (
            (y @ own[f"{attend}.1.to_{part}.weight"].T).unflatten(-1, (HEADS, 64)).transpose(1, 2) for part in "qkv"
        )
        shares = (query @ key.transpose(-1, -2) * 64**-0.5).softmax(-1)
        heads = (shares @ value).transpose(1, 2).flatten(2)
        x = x + heads @ own[f"{attend}.1.to_out.weight"].T + own[f"{attend}.1.to_out.bias"]
        y = norm(x, f"{feed}.0")
        y = F.gelu(y @ own[f"{feed}.1.net.0.0.weight"].T + own[f"{feed}.1.net.0.0.bias"])
        x = x + y @ own[f"{feed}.1.net.2.weight"].T + own[f"{feed}.1.net.2.bias"]
    return norm(x, "norm")


def ids_of(captions):
    tokenizer = BertTokenizer(vocab={word: number for number, word in enumerate(WORDS)})
    return tokenizer(captions, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids


def test_the_paper_transformer_gives_the_numbers_of_its_formulas(tokenizer):
    tensors = tensors_of()
    part = read_bert(TextSource(tensors, PREFIX, tokenizer=tokenizer))
    assert set(part.dropped) == {f"{PREFIX}to_logits.weight", f"{PREFIX}to_logits.bias"}
    assert part.used == tensors.keys() - part.dropped.keys()
    assert (part.node["heads"], part.node["head_width"], part.node["mask_padding"]) == (2, 64, False)
    with torch.no_grad():
        agree(tokens_of(part, CAPTIONS), x_transformer(tensors, ids_of(CAPTIONS)))
    network = conditioner_of(part).network
    written = Translation(network, layouts.x_transformer(DEPTH), layout="CompVis").write(network.state_dict())
    assert {PREFIX + name: 0 for name in written}.keys() == part.used
    assert all(torch.equal(tensors[PREFIX + name], tensor) for name, tensor in written.items())


def test_captions_are_read_as_bert_reads_them_and_padded_with_its_own_token(tokenizer):
    made_of = conditioner_of(read_bert(TextSource(tensors_of(), PREFIX, tokenizer=tokenizer)))
    found = [encoding.ids for encoding in made_of.tokenizer.encode_batch(CAPTIONS)]
    assert found == ids_of(CAPTIONS).tolist()
    start, end = WORDS.index("[CLS]"), WORDS.index("[SEP]")
    assert found[0] == padded([start, WORDS.index("a"), WORDS.index("red"), WORDS.index("cat"), end], 0)
    assert found[1] == padded([start, end], 0)
    assert len(found[3]) == 77
    assert found[3][-1] == end, "a caption that is cut still ends"
    again = conditioner_of(read_bert(TextSource(tensors_of(), PREFIX, tokenizer=tokenizer)))
    again.load_state_dict(made_of.state_dict())
    assert again.tokenizer.to_str() == made_of.tokenizer.to_str()
    assert again.tokenizer.padding["pad_token"] == "[PAD]"
    again.prepare([{"caption": ["other words"]}])
    assert again.tokenizer.to_str() == made_of.tokenizer.to_str(), "nothing is learned in its place"


def ldm_bert(heads, head_dim):
    """Return diffusers' own model, whose random weights tell captions apart."""
    torch.manual_seed(0)
    config = LDMBertConfig(
        vocab_size=SIZE, d_model=WIDTH, encoder_layers=DEPTH, encoder_ffn_dim=4 * WIDTH, encoder_attention_heads=heads,
        head_dim=head_dim, max_position_embeddings=77,
    )  # fmt: skip
    model = LDMBertModel(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1:
                weight.mul_(10.0)
            elif "norm" not in name:
                weight.normal_(std=0.1)
    return model


@pytest.mark.parametrize(("heads", "head_dim"), [(2, 64), (4, 8)])
def test_diffusers_model_gives_the_same_hidden_states(tokenizer, heads, head_dim):
    model = ldm_bert(heads, head_dim)
    tensors = model.state_dict()
    said = {**model.config.to_dict(), "architectures": ["LDMBertModel"]}
    part = read_text_encoder(tensors, said, tokenizer=tokenizer)
    assert set(part.dropped) == {"to_logits.weight", "to_logits.bias"}
    assert (part.node["heads"], part.node["head_width"]) == (heads, head_dim)
    with torch.no_grad():
        agree(tokens_of(part, CAPTIONS), model(ids_of(CAPTIONS))[0])
    network = conditioner_of(part).network
    written = Translation(network, layouts.ldm_bert(DEPTH), layout="diffusers").write(network.state_dict())
    assert written.keys() == part.used
    assert all(torch.equal(tensors[name], tensor) for name, tensor in written.items())


PUBLISHED = {  # width, depth, vocabulary, places; parameters of ours, and of the head that is left out
    "transformer_1p4b": ((1280, 32, 30522, 77), 542_895_360, 39_098_682),
    "transformer_text2img256": ((640, 32, 30522, 77), 166_590_080, 19_564_602),
}


@pytest.mark.parametrize("choice", PUBLISHED)
def test_the_published_ones_have_their_parameters_and_their_presets(tokenizer, choice):
    (width, depth, vocabulary, positions), own, head = PUBLISHED[choice]
    shapes = made.bert(width, depth, vocabulary=vocabulary, positions=positions)
    tensors = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    part = read_bert(TextSource(tensors, PREFIX, tokenizer=tokenizer))
    assert part.node == resolved(compose("train", ["experiment=txt2img", f"conditioner={choice}"]).conditioner)
    assert sum(value.numel() for name, value in part.weights.items() if name.startswith("network.")) == own
    assert sum(tensors[name].numel() for name in part.dropped) == head


def test_the_transformer_of_layouts_gives_the_numbers_of_its_formulas():
    tensors = tensors_of(positions=11)
    node = {"_target_": "ldm.conditioner.layout.LayoutConditioner", "drop_rate": 0.0, "names": None}
    part = read_compvis_conditioner("layout", tensors, prefix="cond_stage_model.", node=node, tokenizer=None)
    assert part.used | part.dropped.keys() == tensors.keys()
    conditioner = conditioner_of(part)
    assert (conditioner.max_boxes, conditioner.none) == (3, SIZE - 1)
    fields = fields_of(4)
    with torch.no_grad():
        agree(conditioner(fields).tokens, x_transformer(tensors, conditioner.ids(fields)))


def test_the_published_transformer_of_layouts_is_the_preset():
    node = resolved(compose("train", ["experiment=layout2img_openimages"]).conditioner)
    shapes = made.bert(512, 16, vocabulary=8192, positions=92)
    tensors = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    part = read_compvis_conditioner("layout", tensors, prefix="cond_stage_model.", node=node, tokenizer=None)
    assert part.node == node


def test_what_is_missing_or_does_not_fit_is_named(tmp_path, tokenizer):
    tensors = tensors_of()
    name = f"{PREFIX}attn_layers.layers.2.1.to_q.weight"
    with refused(f"missing: {name}"):
        read_bert(TextSource(without(tensors, name), PREFIX, tokenizer=tokenizer))
    with refused(r"to_q.weight has the shape \(3, 48\), which does not give \(128, 48\)"):
        read_bert(TextSource({**tensors, name: torch.zeros(3, WIDTH)}, PREFIX, tokenizer=tokenizer))
    with refused("has 522 tokens, but the network knows 300"):
        read_bert(TextSource(tensors, PREFIX, tokenizer=str(clip_files(tmp_path / "clip"))))
    with pytest.raises(FileNotFoundError, match="google-bert/bert-base-uncased.*vocab.txt.*give tokenizer=FOLDER"):
        read_bert(TextSource(tensors, PREFIX))
    model = ldm_bert(2, 64)
    with refused("1 tensors belong to nothing that is known here: more"):
        read_text_encoder(
            {**model.state_dict(), "more": torch.zeros(1)}, {"model_type": "ldmbert"}, tokenizer=tokenizer
        )
