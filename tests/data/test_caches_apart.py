"""What is cached is never taken for something else: another split, other images, another autoencoder or text encoder."""

import json
import shlex
from types import SimpleNamespace

import pytest
from hydra.errors import InstantiationException

from ldm.batch import Size
from ldm.checkpoint import save
from ldm.conditioner.huggingface import HuggingFaceConditioner
from ldm.conditioner.size import SizeConditioner
from ldm.config import build, compose
from ldm.data.shards.names import write_shards
from ldm.data.streaming import StreamedImages
from ldm.data.transforms import CaptionChoice
from ldm.encode.encoder import LatentEncoder, encode, estimate
from ldm.encode.estimate import CacheEstimate
from ldm.encode.program import main
from ldm.training.stages.diffusion import DiffusionStage
from tests.data.caching import SEVERAL, WORDS, cached, captions_of, several_captions, small_autoencoder, text_encoder
from tests.data.small_shards import captioned, numbered, sample, write_tar


@pytest.fixture(scope="module")
def autoencoder():
    return small_autoencoder(0)


@pytest.fixture(scope="module")
def conditioner(tmp_path_factory):
    return text_encoder(tmp_path_factory.mktemp("bert"), 1)


@pytest.fixture
def shards(tmp_path):
    return several_captions(tmp_path)


def test_a_folder_that_was_begun_with_something_else_is_refused(tmp_path, shards, autoencoder, conditioner):
    """Other images, another autoencoder, another text encoder, other captions."""
    cached(tmp_path, shards, autoencoder, conditioner)
    images = {**shards, "train": shards["val"]}
    with pytest.raises(ValueError, match=r"begun with other settings \(shards: .*choose another out="):
        cached(tmp_path, images, autoencoder, conditioner)
    with pytest.raises(ValueError, match=r"begun with other settings \(facts.autoencoder: "):
        cached(tmp_path, shards, small_autoencoder(4), conditioner)
    with pytest.raises(ValueError, match=r"begun with other settings \(facts.text: "):
        cached(tmp_path, shards, autoencoder, text_encoder(tmp_path / "other", 4))
    with pytest.raises(ValueError, match=r"begun with other settings \(facts.captions: .*alts"):
        cached(tmp_path, shards, autoencoder, conditioner, fields=None)
    done, _ = cached(tmp_path, shards, autoencoder, conditioner, fields={"alts": 1, "txt": 1})
    assert done["shards kept"] == 2, "weights are chosen in training"


def test_the_tokens_of_another_text_encoder_are_refused(conditioner, tmp_path):
    def check(used):
        stage = SimpleNamespace(task=SimpleNamespace(model=SimpleNamespace(conditioner=used)))
        data = SimpleNamespace(encoding={"text": conditioner.frozen_hash})
        DiffusionStage.check_captions(stage, data, new=False)

    check(conditioner)
    check(SizeConditioner(8, number_width=2, vector_width=12))
    longer = HuggingFaceConditioner(conditioner.name, width=16, max_tokens=10)
    longer.prepare(None)
    for wrong in (longer, text_encoder(tmp_path, 5)):
        with pytest.raises(
            ValueError, match=rf"made by the text encoder {conditioner.frozen_hash}, but the conditioner is"
        ):
            check(wrong)


def test_latents_of_one_split_never_serve_the_other_in_silence(tmp_path, shards, autoencoder, conditioner, caplog):
    """Validation takes no latents at all; training on the latents of validation images is said."""
    _, latents = cached(tmp_path, shards, autoencoder, conditioner)
    with pytest.raises(ValueError, match="validation needs images"):
        captioned(tmp_path, train=shards["train"], val=latents["train"])
    with pytest.raises(ValueError, match="validation needs images"):
        captioned(tmp_path, train=latents["train"], val=latents["train"])
    captioned(tmp_path, **latents, caption=CaptionChoice(SEVERAL))
    assert "trained on, too" not in caplog.text
    swapped = {"train": shards["val"], "val": shards["train"]}
    _, wrong = cached(tmp_path, swapped, autoencoder, conditioner, out="wrong")
    both = [latents["train"], wrong["train"]]
    captioned(tmp_path, train=both, val=shards["val"], caption=CaptionChoice(SEVERAL))
    said = f"1 of 1 validation shards are trained on, too: {tmp_path}/val-000000.tar (as {tmp_path}/wrong/train-000000.tar)"
    assert said in caplog.text


def test_latents_of_validation_images_are_known_whatever_lies_beside_them(tmp_path, autoencoder, caplog):
    """Without captions, images alone are encoded as well; with captions, validation does without them."""
    extra = [("alone.png", sample("x", number=9)["png"])]
    entries = [
        (f"{n}.{ending}", sample("x", number=n, txt=b"a cat")[ending]) for n in range(3) for ending in ("png", "txt")
    ]
    val = write_tar(tmp_path / "val.tar", [*entries, *extra])
    images = captioned(tmp_path, train=val, val=val, fields=[])
    encode(images, LatentEncoder(autoencoder, flip=False, dtype="float32"), tmp_path / "out", batch_size=4)
    caplog.clear()
    captioned(tmp_path, train=f"{tmp_path}/out/*.tar", val=val, max_broken=0.5)
    assert "1 of 1 validation shards are trained on, too" in caplog.text
    assert (
        captioned(tmp_path, train=numbered(tmp_path / "y", [3]), val=val, max_broken=0.5)
        .train_set.index.shards[0]
        .sources
        == []
    )


def test_shards_of_two_kinds_are_refused(tmp_path, shards, autoencoder, conditioner):
    """Latents beside images, tokens of two text encoders, and latents in a stream."""
    _, latents = cached(tmp_path, shards, autoencoder, conditioner)
    _, without = cached(tmp_path, shards, autoencoder, None, out="without")
    _, others = cached(tmp_path, shards, autoencoder, text_encoder(tmp_path / "bert", 6), out="others")
    for more in (shards, without, others):
        both = [latents["train"], more["train"]]
        with pytest.raises(ValueError, match="were not made the same way"):
            captioned(tmp_path, train=both, val=shards["val"], caption=CaptionChoice(SEVERAL))
    stream = StreamedImages(train=latents["train"], val=shards["val"], size=8, cache=tmp_path / "cache", max_broken=0.5)
    stream.open()
    stream.set_batch(4, 1, 1)
    with pytest.raises(ValueError, match="cached latent, which only data=latents reads"):
        next(iter(stream.train_dataloader()))


def test_the_estimate_is_what_is_written(tmp_path, autoencoder, conditioner):
    samples = []
    for number in range(60):
        record = json.dumps({"alts": WORDS[: number % 3]}).encode()
        samples.append(sample(f"{number:06d}", number=number, txt=b"a cat", json=record))
    write_shards(samples, tmp_path, "train", samples_per_shard=60)
    names = dict.fromkeys(("train", "val"), f"{tmp_path}/train-*.tar")
    data = captioned(tmp_path, **names, caption=CaptionChoice(SEVERAL))
    encoder = LatentEncoder(autoencoder, flip=True, dtype="float16", conditioner=conditioner)
    found = estimate(data, encoder)
    assert (found.images, found.looked_at, found.captions) == (60, 60, 120)
    done = encode(data, encoder, tmp_path / "out", batch_size=8)
    assert (done["samples"], done["captions"]) == (60, 120)
    others = 60 * 2 * 1024
    written = (tmp_path / "out" / "train-000000.tar").stat().st_size
    assert found.size + others == pytest.approx(written, rel=0.1)
    plain = LatentEncoder(autoencoder, flip=False, dtype="float16")
    assert plain.sizes(Size(8, 8))[1] == 0
    assert plain.sizes(Size(64, 64))[0] > 4 * plain.sizes(Size(16, 16))[0]


def test_the_estimate_says_what_it_is_of():
    text = str(
        CacheEstimate(images=2_000_000, looked_at=1000, captions=5003, image_bytes=70_000, caption_bytes=236_000)
    )
    assert text == (
        "2,000,000 images with about 10,006,000 captions, 5 each (counted in 1,000 images): about 140.0 GB of latents and "
        "2,361.4 GB of tokens, and copies of the other files"
    )
    few = CacheEstimate(images=60, looked_at=60, captions=120, image_bytes=700, caption_bytes=160)
    assert str(few).startswith("60 images with 120 captions, 2 each: about 42.0 KB of latents and 19.2 KB of tokens")
    assert str(few._replace(caption_bytes=0)).startswith(
        "60 images, without tokens of captions: about 42.0 KB of latents"
    )


def test_the_program_says_how_many_captions_there_are(tmp_path, shards, conditioner, capsys):
    """Its next command trains on all of them, with the same text encoder."""
    config = {
        "_target_": "ldm.autoencoder.convolutional.ConvAutoencoder",
        "regularizer": {"_target_": "ldm.autoencoder.kl.KLRegularizer"}, "latent_channels": 2, "channels": 8,
        "channel_mult": [1, 1], "blocks": 1, "groups": 4,
    }  # fmt: skip
    network = build(config)
    network.statistics_count.fill_(1)
    save(tmp_path / "autoencoder.safetensors", network, config)
    options = [
        f"autoencoder.ckpt={tmp_path}/autoencoder.safetensors", f"out={tmp_path}/out", "data.size=8", "data.workers=0",
        f"data.train={shards['train']}", f"data.val={shards['val']}", f"data.cache={tmp_path}/cache", "text=true",
        f"conditioner.name={conditioner.name}", "conditioner.width=16", "conditioner.max_tokens=9",
        "data.caption.fields={txt:1,alts:3}", "conditioner.pad_token='[UNK]'",
    ]  # fmt: skip
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises((ValueError, InstantiationException), match="cannot be encoded once"):
        main(compose("encode", [*options, "data.caption.shuffle_tags=true"]))
    assert sorted(tmp_path.rglob("*")) == before
    main(compose("encode", options))
    text = capsys.readouterr().out
    count = sum(len({text, *alts}) for text, alts in map(captions_of, range(13)))
    assert f"plan: 13 images with {count} captions, 1.69 each: about " in text
    assert f"samples: 13, captions: {count}" in text
    assert f"KB in {tmp_path}/out" in text
    (line,) = (line for line in text.splitlines() if line.startswith("next: "))
    typed = compose("train", [*shlex.split(line)[3:], "name=x"])
    assert typed.data.caption.fields == {"txt": 1, "alts": 3}
    assert {name: value for name, value in typed.conditioner.items() if name != "drop_rate"} == {
        "_target_": "ldm.conditioner.huggingface.HuggingFaceConditioner", "name": conditioner.name, "width": 16,
        "max_tokens": 9, "mask_padding": True, "layer": -1, "pad_token": "[UNK]",
    }  # fmt: skip
