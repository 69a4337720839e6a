"""The cached tokens of all captions of a sample: training draws the captions that it would draw beside images."""

import copy
import json
import random
from collections import Counter
from itertools import product

import pytest
import torch

from ldm.batch import Batch
from ldm.conditioner.composite import Composite
from ldm.conditioner.size import SizeConditioner
from ldm.config import build, compose, resolved
from ldm.data.cached_text import CachedText, captions_fact, check_cached_text, digests_of
from ldm.data.decode import Broken
from ldm.data.fields.all_captions import MOST_CAPTIONS, AllCaptionsReader
from ldm.data.fields.base import Files
from ldm.data.order.shuffle import SampleRef
from ldm.data.shards.names import write_shards
from ldm.data.transforms import CaptionChoice
from ldm.encode.encoder import LatentEncoder, encode
from tests.conftest import scramble
from tests.data.caching import SEVERAL, WORDS, cached, captions_of, several_captions, small_autoencoder, text_encoder
from tests.data.small_shards import captioned, read_all, sample, write_tar


@pytest.fixture(scope="module")
def autoencoder():
    return small_autoencoder(0)


@pytest.fixture(scope="module")
def conditioner(tmp_path_factory):
    return text_encoder(tmp_path_factory.mktemp("bert"), 1)


@pytest.fixture
def shards(tmp_path):
    return several_captions(tmp_path)


@pytest.mark.parametrize("workers", [0, 2])
def test_the_same_captions_are_drawn_with_and_without_the_cache(tmp_path, shards, autoencoder, conditioner, workers):
    """The tokens are those of the drawn captions, over several epochs and after a resume. Validation is the same."""
    done, latents = cached(tmp_path, shards, autoencoder, conditioner)
    assert (done["samples"], done["captions"]) == (
        13,
        sum(len({text, *alts}) for text, alts in map(captions_of, range(13))),
    )
    options = {"caption": CaptionChoice(SEVERAL), "seed": 5, "flip": True}

    def batches(names, epochs, position=0, workers=0):
        data = captioned(tmp_path, **names, **options, workers=workers)
        data.set_batch(4, 1, 1)
        if position:
            data.load_state_dict({**data.state_dict(), "position": position})
        return read_all(data, epochs), list(data.val_dataloader())

    beside_images, measured = batches(shards, 4)
    from_cache, measured_too = batches(latents, 4, workers=workers)
    resumed, _ = batches(latents, 3, 4, workers)
    assert len(beside_images) == len(from_cache) == 12
    assert len(resumed) == 8
    for found, expected in (
        *zip(from_cache, beside_images, strict=True),
        *zip(resumed, beside_images[4:], strict=True),
    ):
        assert found.key == expected.key
        assert found.fields["caption"] == expected.fields["caption"]
        said = conditioner.encode_captions(expected.fields["caption"])
        torch.testing.assert_close(found.fields["text_tokens"], said.tokens, atol=1e-5, rtol=1e-5)
        assert torch.equal(found.fields["text_mask"], said.mask)
    drawn = {}
    for batch in from_cache:
        for key, caption in zip(batch.key, batch.fields["caption"], strict=True):
            drawn.setdefault(key, set()).add(caption)
    assert max(map(len, drawn.values())) > 1, "a sample has other captions in other epochs"
    everything = conditioner.encode_captions(WORDS).tokens
    differences = (everything[:, None] - everything[None]).abs().amax((2, 3)) + torch.eye(len(WORDS))
    assert differences.min() > 1e-3, "no caption is taken for another"
    for found, expected in zip(measured_too, measured, strict=True):
        assert found.key == expected.key
        assert found.fields.keys() == expected.fields.keys()
        assert found.fields["caption"] == expected.fields["caption"]
        assert torch.equal(found.fields["image"], expected.fields["image"])


def test_the_losses_are_those_beside_images(tmp_path, shards, conditioner):
    """The same noise, drop-out and captions: a step from the cache is the step from images."""
    config = compose("train", [
        "experiment=txt2img", "conditioner=huggingface", f"conditioner.name={conditioner.name}", "conditioner.width=16",
        "conditioner.max_tokens=9", "name=x", "data.size=16", "backbone.model_channels=16", "backbone.groups=8",
        "autoencoder.network.channels=8", "autoencoder.network.groups=4",
    ])  # fmt: skip
    torch.manual_seed(2)
    model = build(resolved(config.model))
    model.conditioner.prepare(None)
    scramble(model.denoiser.backbone)
    with torch.no_grad():
        for parameter in model.denoiser.backbone.parameters():
            if parameter.shape[-1:] == (16,):  # those that read tokens the most
                parameter.mul_(6.0)
    model.autoencoder.eval()
    options = {"caption": CaptionChoice(SEVERAL), "size": 16}
    encoder = LatentEncoder(model.autoencoder, flip=False, dtype="float32", conditioner=model.conditioner)
    encode(captioned(tmp_path, **shards, **options), encoder, tmp_path / "latents", batch_size=4)
    latents = {**shards, "train": f"{tmp_path}/latents/*.tar"}
    losses, unlike = [], []
    for names in (shards, latents):
        data = captioned(tmp_path, **names, **options)
        data.set_batch(4, 1, 1)
        torch.manual_seed(3)
        batches = read_all(data, 2)
        with torch.no_grad():
            losses.append([model.loss(batch).tolist() for batch in batches])
            for batch in batches:
                batch.fields["caption"].reverse()
            torch.manual_seed(3)
            unlike = [model.loss(batch).tolist() for batch in batches] if names is shards else unlike
    beside_images, from_cache = map(torch.tensor, losses)
    torch.testing.assert_close(from_cache, beside_images, atol=2e-6, rtol=0)
    assert (torch.tensor(unlike) - beside_images).abs().max() > 1e-4, "captions have an effect"


def test_with_fewer_fields_and_other_weights_the_same_captions_are_drawn(tmp_path, shards, autoencoder, conditioner):
    _, latents = cached(tmp_path, shards, autoencoder, conditioner, flip=False, dtype="float16")
    for fields in ({"alts": 1, "txt": 5}, {"txt": 2}):
        beside, held = (captioned(tmp_path, **names, caption=CaptionChoice(fields)) for names in (shards, latents))
        for epoch, number in product(range(3), range(13)):
            expected, found = (data.train_set[SampleRef(epoch, number)].fields for data in (beside, held))
            assert found["caption"] == expected["caption"]
            said = conditioner.encode_captions([expected["caption"]]).tokens[0]
            torch.testing.assert_close(found["text_tokens"], said, atol=2e-3, rtol=2e-3)
            assert found["text_tokens"].dtype == torch.float32


def test_without_a_need_for_captions_no_tokens_are_read(tmp_path, shards, autoencoder, conditioner):
    _, latents = cached(tmp_path, shards, autoencoder, conditioner)
    data = captioned(tmp_path, **latents, fields=[], caption=CaptionChoice(drop_tags=0.5))
    assert data.train_set[SampleRef(0, 0)].fields.keys() == {"moments", "geometry"}


def test_cached_tokens_are_dropped_like_captions(tmp_path, shards, autoencoder, conditioner):
    _, latents = cached(tmp_path, shards, autoencoder, conditioner)
    data = captioned(tmp_path, **latents, caption=CaptionChoice(SEVERAL))
    assert data.encoding["text"] == conditioner.frozen_hash
    data.set_batch(8, 1, 1)
    (batch,) = read_all(data)
    assert isinstance(batch, Batch)
    torch.manual_seed(0)
    dropped = torch.rand(8) < 0.5
    torch.manual_seed(0)
    got, full = conditioner.with_dropout(batch.fields), conditioner.encode_captions(batch.fields["caption"])
    nothing = conditioner.encode_captions([""])
    torch.testing.assert_close(got.tokens, torch.where(dropped[:, None, None], nothing.tokens, full.tokens))
    assert torch.equal(got.mask, torch.where(dropped[:, None], nothing.mask, full.mask))
    for wrong in (
        Composite([conditioner, copy.deepcopy(conditioner)], width=16),
        SizeConditioner(8, number_width=2, vector_width=12),
    ):
        with pytest.raises(ValueError, match="tokens are cached of one text encoder; the conditioner has"):
            LatentEncoder(autoencoder, flip=False, dtype="float32", conditioner=wrong)


RULE = r"the .txt or, where there is none, \"caption\""


@pytest.mark.parametrize(
    ("encoded", "wanted", "said"),
    [
        (None, None, None), (None, ["txt"], None), (["txt", "alts"], ["alts"], None), (["alts"], ["alts"], None),
        (["caption", "txt"], None, None),
        (None, ["caption"], f"from {RULE}, but .* from caption; set data.caption.fields=null, or encode with "
         r"data.caption.fields=\{caption:1\}, or with text=false"),
        (["txt"], None, rf"from txt, but .* from {RULE}; set data.caption.fields=\{{txt:1\}}, or encode with "
         "data.caption.fields=null"),
        (["txt"], ["txt", "alts"], r"from txt, but .* from alts, txt; set data.caption.fields=\{txt:1\}"),
    ],
)  # fmt: skip
def test_captions_that_have_no_tokens_are_refused(encoded, wanted, said):
    made = {"text": "x", "captions": captions_fact(encoded)}
    if said is None:
        check_cached_text(made, wanted, tags_vary=False)
    else:
        with pytest.raises(ValueError, match=said):
            check_cached_text(made, wanted, tags_vary=False)


@pytest.mark.parametrize("fact", [{}, {"captions": "x"}, {"captions": "[" * 9999}, {"captions": "3"}])
def test_a_fact_that_is_none_names_no_captions(fact):
    with pytest.raises(ValueError, match="captions from no field that is known"):
        check_cached_text({"text": "x", **fact}, None, tags_vary=False)


@pytest.mark.parametrize("options", [{"shuffle_tags": True}, {"drop_tags": 0.1}])
def test_tags_that_vary_are_refused_when_encoding_and_when_training(
    tmp_path, shards, autoencoder, conditioner, options
):
    """They make another text at each draw. Beside latents without tokens they vary as beside images."""
    varied = CaptionChoice(SEVERAL, keep_tags=1, **options)
    with pytest.raises(
        ValueError, match="cannot be encoded once; set data.caption.shuffle_tags=false .* or text=false"
    ):
        encode(
            captioned(tmp_path, **shards, caption=varied),
            LatentEncoder(autoencoder, flip=False, dtype="float32", conditioner=conditioner),
            tmp_path / "latents",
            batch_size=4,
        )
    assert not list((tmp_path / "latents").glob("*"))
    _, latents = cached(tmp_path, shards, autoencoder, conditioner)
    with pytest.raises(
        ValueError, match="whole captions in one order; set data.caption.shuffle_tags=false .* text=false"
    ):
        captioned(tmp_path, **latents, caption=varied)
    _, latents = cached(tmp_path, shards, autoencoder, None, out="without")
    beside, held = (captioned(tmp_path, **names, caption=varied) for names in (shards, latents))
    for draw in (SampleRef(epoch, number) for epoch in range(2) for number in range(13)):
        assert held.train_set[draw].fields["caption"] == beside.train_set[draw].fields["caption"]


def test_all_captions_are_those_that_can_be_drawn():
    text, content = (
        b"one",
        json.dumps({"alts": ["two", "one", "", 3, "two"], "other": "four", "caption": "five"}).encode(),
    )
    for fields, expected in (
        (None, ["one"]),
        (SEVERAL, ["two", "one"]),
        ({"other": 1, "caption": 2}, ["five", "four"]),
    ):
        choice = CaptionChoice(fields)
        found = AllCaptionsReader(choice).read(Files({"txt": text, "json": content}.get), None)
        assert found == expected
        drawn = Counter(choice(text, content, lambda seed=seed: random.Random(seed)) for seed in range(60))
        assert set(drawn) == set(found)
    assert AllCaptionsReader(CaptionChoice()).read(Files({"json": content}.get), None) == ["five"]
    with pytest.raises(Broken, match="no caption"):
        AllCaptionsReader(CaptionChoice({"x": 1})).read(Files({"txt": text}.get), None)


def test_a_sample_with_captions_without_number_is_left_out_and_counted(tmp_path, autoencoder, conditioner):
    many = json.dumps({"alts": [f"cat {number}" for number in range(MOST_CAPTIONS + 1)]}).encode()
    samples = [sample(f"{n}", number=n, txt=b"a cat", json=many if n == 1 else b"{}") for n in range(3)]
    write_shards(samples, tmp_path, "train", samples_per_shard=3)
    names = dict.fromkeys(("train", "val"), f"{tmp_path}/train-*.tar")
    data = captioned(tmp_path, **names, caption=CaptionChoice(SEVERAL), max_broken=0.5)
    encoder = LatentEncoder(autoencoder, flip=False, dtype="float32", conditioner=conditioner)
    done = encode(data, encoder, tmp_path / "out", batch_size=2)
    assert (done["samples"], done["captions"], done["more than 100 captions"]) == (2, 2, 1)


def test_a_caption_that_was_changed_after_encoding_has_no_tokens(tmp_path, shards, autoencoder, conditioner):
    """Another sample takes the place of such a one, which is counted."""
    _, latents = cached(tmp_path, shards, autoencoder, conditioner, fields=None)
    write_tar(tmp_path / "more.tar", [("train-3.txt", b"a caption that is new")])
    first = tmp_path / "latents" / "train-000000.tar"
    first.write_bytes(first.read_bytes() + (tmp_path / "more.tar").read_bytes())
    data = captioned(tmp_path, **latents, max_broken=0.5)
    data.set_batch(13, 1, 1)
    (batch,) = read_all(data)
    assert [skip[1:3] for skip in batch.skipped] == [("train-3", "no cached tokens of its caption")]
    said = conditioner.encode_captions(batch.fields["caption"])
    torch.testing.assert_close(batch.fields["text_tokens"], said.tokens, atol=1e-5, rtol=1e-5)


TOKENS = {
    "captions": digests_of(["a", "b"]),
    "tokens": torch.zeros(2, 3, 4),
    "mask": torch.ones(2, 3, dtype=torch.bool),
}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"tokens": None}, "latent without tokens"), ({"captions": None}, "latent without tokens"),
        ({"tokens": torch.zeros(3, 4)}, "unreadable latent"), ({"tokens": torch.zeros(3, 3, 4)}, "unreadable latent"),
        ({"tokens": torch.zeros(2, 3, 4, dtype=torch.long)}, "unreadable latent"),
        ({"captions": torch.zeros(2, 15, dtype=torch.uint8)}, "unreadable latent"),
        ({"captions": torch.zeros(2, 16)}, "unreadable latent"), ({"mask": torch.ones(2, 3)}, "unreadable latent"),
        ({"mask": torch.ones(2, 4, dtype=torch.bool)}, "unreadable latent"),
    ],
)  # fmt: skip
def test_tokens_that_do_not_fit_are_a_reason(change, reason):
    assert CachedText.take_from(TOKENS).fields_of("b")["text_mask"].tolist() == [True] * 3
    without_mask = {name: tensor for name, tensor in TOKENS.items() if name != "mask"}
    assert CachedText.take_from(without_mask).fields_of("a").keys() == {"text_tokens"}
    given = {name: tensor for name, tensor in {**TOKENS, **change}.items() if tensor is not None}
    with pytest.raises(Broken) as caught:
        CachedText.take_from(given)
    assert caught.value.reason == reason
