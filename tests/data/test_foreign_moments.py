"""Moments that somebody else's encoder made: declared, read, and refused where the declaration is wrong."""

import io
import pickle
import re

import numpy as np
import pytest
import torch

from ldm.autoencoder.convolutional import ConvAutoencoder
from ldm.autoencoder.kl import KLRegularizer
from ldm.batch import Size
from ldm.config import build
from ldm.data.decode import Broken
from ldm.data.foreign_moments import ForeignMoments
from ldm.data.streaming import StreamedImages
from tests.configs import composed
from tests.data.small_shards import array, captioned, foreign, level, moments_of, numbered, opened, read_all, write_tar

MLPERF = {"channels": 4, "downsampling_factor": 8, "scale": 0.18215, "shift": 0.0, "normalized": False}


def declared(**options):
    return ForeignMoments(**{**MLPERF, **options})


def data_of(folder, counts=(5, 0, 7), **options):
    shards = {"train": foreign(folder, counts), "val": foreign(folder, [3], split="val")}
    return captioned(folder, **{"size": 64, "moments": declared(), **shards, **options})


def read(data, size=64, **options):
    return declared(**options).transform(Size(size, size))(data, None).fields["moments"]


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_have_the_moments_and_captions_of_their_samples_each_once_an_epoch(tmp_path, workers):
    data = data_of(tmp_path, workers=workers)
    data.set_batch(4, 1, 1)
    batches = read_all(data)
    assert sorted(key for batch in batches for key in batch.key) == [f"{number:09d}" for number in range(12)]
    for batch in [*batches, *data.val_dataloader()]:
        assert "image" not in batch.fields
        for key, caption, moments in zip(batch.key, batch.fields["caption"], batch.fields["moments"], strict=True):
            assert caption == f"caption {int(key)}", "the .txt, not the .json"
            assert torch.equal(moments, torch.from_numpy(moments_of(int(key))))


def test_the_order_is_that_of_images(tmp_path):
    """The order depends on seed, epoch and shards alone, whatever the samples are."""
    (tmp_path / "images").mkdir()
    images = captioned(
        tmp_path, train=numbered(tmp_path / "images", [5, 7]), val=numbered(tmp_path, [2], split="val"), seed=3
    )
    moments = data_of(tmp_path / "moments", [5, 7], seed=3)
    for data in (images, moments):
        data.set_batch(4, 1, 1)
    ours, theirs = ([int(key) for batch in read_all(data, 2) for key in batch.key] for data in (moments, images))
    assert ours == theirs


@pytest.mark.parametrize("kind", ["float16", "float32", "float64"])
@pytest.mark.parametrize("batch", [True, False])
def test_moments_are_mean_and_log_variance_of_the_raw_latent(kind, batch):
    values = moments_of(3).astype(kind)
    moments = read(array(values[None] if batch else values))
    posterior = KLRegularizer()(moments[None])
    np.testing.assert_array_equal(posterior.mean[0], values[:4].astype(np.float32))
    np.testing.assert_array_equal(posterior.log_variance[0], values[4:].astype(np.float32))


def pickled():
    data = io.BytesIO()
    np.save(data, np.array([print], object), allow_pickle=True)
    return data.getvalue()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (array(moments_of(0)[:4]), "moments of shape (4, 8, 8) instead of (8, 8, 8)"),
        (array(moments_of(0)[:, :, :4]), "moments of shape (8, 8, 4) instead"),
        (array(np.stack([moments_of(0)] * 2)), "moments of shape (2, 8, 8, 8) instead"),
        (array(moments_of(0)[None, None]), "moments of shape (1, 1, 8, 8, 8) instead"),
        (array(np.zeros((8, 8, 8), np.int64)), "unreadable array"),
        (array(np.full((8, 8, 8), np.nan, np.float32)), "unreadable array"),
        (array(np.full((8, 8, 8), 1e300)), "unreadable array"),
        (array(moments_of(0))[:-1], "unreadable array"),
        (array(moments_of(0)) + b"0", "unreadable array"),
        (array(moments_of(0))[:20], "unreadable array"),
        (pickled(), "unreadable array"),
        (pickle.dumps(moments_of(0)), "unreadable array"),
        (b"", "unreadable array"),
    ],
)
def test_other_arrays_are_broken_samples(data, reason):
    with pytest.raises(Broken, match=re.escape(reason)):
        read(data)


def test_broken_moments_are_replaced_counted_and_named(tmp_path):
    files = []
    for number in range(20):
        moments = moments_of(number)
        files += [
            (f"{number:09d}.npy", array(moments[:4] if number == 7 else moments)),
            (f"{number:09d}.txt", f"caption {number}".encode()),
        ]
    train = write_tar(tmp_path / "odd.tar", files)
    data = captioned(
        tmp_path, train=train, val=foreign(tmp_path, [2], split="val"), size=64, moments=declared(), max_broken=0.2
    )
    data.set_batch(4, 1, 1)
    batches = read_all(data)
    skipped = [skip for batch in batches for skip in batch.skipped]
    assert [(skip.key, skip.reason) for skip in skipped] == [
        (f"{7:09d}", "moments of shape (4, 8, 8) instead of (8, 8, 8)")
    ]
    assert sum(len(batch.key) for batch in batches) == 20


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"moments": None}, "data.val holds arrays of moments (.npy), which do not say how they were made; declare it"),
        (
            {"size": 128},
            "none of 8 samples of data.train that were looked at can be read: moments of shape (1, 8, 8, 8) ins",
        ),
        ({"moments": declared(channels=8)}, "instead of (16, 8, 8); set data.size, data.moments.channels"),
        ({"size": 60}, "data.size=60 is not a multiple of data.moments.downsampling_factor=8"),
        ({"flip": True}, "and there are no mirrored ones"),
        ({"crop": "random"}, "the images of data.moments were cut when they were encoded"),
        ({"buckets": {"multiple": 8, "max_ratio": 2.0}}, "the images of data.moments were cut"),
        ({"cache_latents": True}, "data.cache_latents=false"),
        ({"fields": ["caption", "geometry"]}, "geometry lies on the image, and of these moments it is not known how"),
        ({"fields": ["caption", "mask"]}, "mask lies on the image"),
    ],
)
def test_what_moments_cannot_do_is_said_when_they_are_opened(tmp_path, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        data_of(tmp_path, **options)


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_declaration_is_of_arrays_alone(tmp_path, split):
    shards = {"train": foreign(tmp_path, [3]), "val": foreign(tmp_path, [3], split="val")}
    shards[split] = numbered(tmp_path, [4], split="images")
    with pytest.raises(ValueError, match=f"data.moments declares arrays.*but data.{split} holds images; .*data=shards"):
        captioned(tmp_path, size=64, moments=declared(), **shards)


@pytest.mark.parametrize(
    ("option", "value"),
    [("channels", 0), ("downsampling_factor", 1.5), ("scale", 0), ("shift", float("nan")), ("normalized", "no")],
)
def test_a_declaration_that_cannot_be_is_refused(option, value):
    with pytest.raises(ValueError, match=f"data.moments.{option}"):
        declared(**{option: value})


def test_what_is_declared_is_kept_with_a_checkpoint(tmp_path):
    data = data_of(tmp_path)
    data.set_batch(4, 1, 1)
    state = data.state_dict()
    assert state["encoding"]["scale"] == "0.18215"
    assert state["encoding"]["images in"] == "[0, 1]"
    data_of(tmp_path).load_state_dict(state)
    for other in ({"scale": 0.13025}, {"normalized": True}, {"shift": 0.1}):
        with pytest.raises(ValueError, match="the latents were made otherwise than those of the checkpoint"):
            data_of(tmp_path, moments=declared(**other)).load_state_dict(state)
    del state["encoding"]
    data_of(tmp_path).load_state_dict(state)


def test_arrays_among_images_and_images_among_arrays_are_left_out(tmp_path):
    image, moments = ("a.png", level(1)), ("b.npy", array(moments_of(0)))
    texts = [("a.txt", b"a"), ("b.txt", b"b")]
    for first, second, kept in ((image, moments, "a"), (moments, image, "b")):
        index = opened(write_tar(tmp_path / f"{kept}.tar", [first, second, *texts]), tmp_path / "cache")
        assert [index[number].key for number in range(len(index))] == [kept]
        assert [skip.key for skip in index.skipped] == ["b" if kept == "a" else "a"]
    index = opened(write_tar(tmp_path / "both.tar", [image, ("a.npy", moments[1]), texts[0]]), tmp_path / "cache")
    assert (len(index), index.encoding) == (1, {}), "an image with an array of its own is an image"


def test_a_stream_names_arrays_that_it_does_not_read(tmp_path):
    train, val = foreign(tmp_path, [60]), numbered(tmp_path, [2], split="images")
    data = StreamedImages(train=train, val=val, size=64, cache=tmp_path / "cache")
    data.open()
    data.set_batch(2, 1, 1)
    with pytest.raises(ValueError, match="array of moments, which only data=moments reads"):
        next(iter(data.train_dataloader()))


def test_the_shipped_declaration_is_that_of_mlperf():
    assert build(composed("train", "experiment=mlperf_sd", "data=moments").data.moments) == declared()


def test_declared_numbers_make_the_latents_of_training(tmp_path):
    """The latent is the mean, shifted and scaled as declared, plus the noise of the posterior."""
    autoencoder = ConvAutoencoder(
        KLRegularizer(), latent_channels=4, channels=8, channel_mult=[1] * 4, blocks=1, groups=4
    )
    autoencoder.scale.fill_(0.18215)
    data = data_of(tmp_path)
    data.set_batch(3, 1, 1)
    batch = next(iter(data.val_dataloader()))
    expected = np.stack([moments_of(int(key))[:4] for key in batch.key]) * 0.18215
    torch.testing.assert_close(autoencoder.mean_latent(batch), torch.from_numpy(expected))
    assert (autoencoder.latent(batch) - torch.from_numpy(expected)).abs().max() < 0.05
