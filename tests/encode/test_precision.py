"""Encoding in bf16: what it changes is measured before anything is written, and is little or refused."""

import json
import math

import pytest
import torch

from ldm.autoencoder.identity import CopyAutoencoder
from ldm.checkpoint import save
from ldm.config import build, compose, resolved
from ldm.data.dataset import finish
from ldm.encode.encoder import LatentEncoder, encode
from ldm.encode.precision import LARGEST_ERROR, LatentComparison, compare_precision
from ldm.encode.program import main
from ldm.pretrained.precision import computing_in
from tests.data.caching import small_autoencoder
from tests.data.small_shards import captioned, numbered

BF16 = "bf16-mixed"


@pytest.fixture(scope="module")
def autoencoder():
    return small_autoencoder(0)


@pytest.fixture(scope="module")
def pictures():
    """Return batches of images of noise, of different sizes."""
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(count, 3, 16, 16, generator=generator) * 2 - 1 for count in (4, 3)]


def offset(network, value):
    """Move the latents of a network far away from zero, where bf16 has few digits for what they differ in."""
    with torch.no_grad():
        network.to_moments.bias[: network.latent_channels].fill_(value)
    return network


def test_the_bound_is_the_least_noise_of_the_papers_training():
    schedule = build(resolved(compose("train", ["experiment=txt2img"]).schedule))
    _, sigma = schedule.alpha_sigma(torch.tensor([1 / 1000], dtype=torch.float64))
    assert float(sigma) == pytest.approx(LARGEST_ERROR, rel=1e-6)


def test_full_precision_differs_in_nothing_from_itself(autoencoder, pictures):
    found = compare_precision(autoencoder, pictures, "32-true")
    assert found.images == 7
    assert found.error.tolist() == [0.0, 0.0]
    assert torch.equal(found.mean, found.full_mean)
    assert torch.equal(found.std, found.full_std)


def test_a_network_that_computes_nothing_loses_nothing(pictures):
    assert compare_precision(CopyAutoencoder(), pictures, BF16).error.tolist() == [0.0] * 3


def test_the_error_bounds_what_mean_and_deviation_change_by(pictures):
    """It is that of all latents at once, and grows where the latents lie far from zero."""
    errors = []
    for value in (0.0, 3.0, 300.0):
        network = offset(small_autoencoder(0), value)
        state = torch.random.get_rng_state()
        found = compare_precision(network, pictures, BF16)
        assert torch.equal(torch.random.get_rng_state(), state), "it draws from its own generators"
        bound = found.error * found.full_std * (1 + 1e-6)
        assert ((found.mean - found.full_mean).abs() <= bound).all()
        assert ((found.std - found.full_std).abs() <= bound).all()
        draws = []
        for name in ("32-true", BF16):
            generator = torch.Generator().manual_seed(0)
            with torch.no_grad(), computing_in(name, torch.device("cpu")):
                moments = [network.encode(batch).moments.float() for batch in pictures]
            drawn = torch.cat([network.regularizer(one).sample(generator) for one in moments])
            draws.append(drawn.double().transpose(0, 1).flatten(1))
        full, other = draws
        torch.testing.assert_close(found.full_mean, full.mean(1))
        torch.testing.assert_close(found.std, other.std(1, correction=0))
        expected = (other - full).square().mean(1).sqrt() / full.std(1, correction=0)
        torch.testing.assert_close(found.error, expected)
        errors.append(float(found.error.max()))
    assert 0 < errors[0] < errors[1] < errors[2]
    assert errors[0] < LARGEST_ERROR < errors[2]


def test_what_is_beyond_the_bound_is_refused(pictures):
    compare_precision(small_autoencoder(0), pictures, BF16).check("precision")
    found = compare_precision(offset(small_autoencoder(0), 300.0), pictures, BF16)
    with pytest.raises(
        ValueError, match=r"changes these latents too much: by \S+ of .* in channel [01], over 7 images"
    ):
        found.check("precision")
    for wrong in (math.nan, math.inf):
        with pytest.raises(ValueError, match="by inf of their own deviation in channel 1"):
            found._replace(error=torch.tensor([0.0, wrong])).check("precision")
    with pytest.raises(ValueError, match="no images whose latents could be compared"):
        compare_precision(small_autoencoder(0), [], BF16)


def test_a_comparison_is_shown_with_a_row_for_each_channel():
    row = torch.tensor([1.0, 2.0])
    text = str(LatentComparison(BF16, 7, row, row + 0.25, row, row, row / 100))
    assert "7 images in bf16-mixed and in 32-true" in text
    assert text.splitlines()[-1].split() == ["1", "2.2500", "2.0000", "2.0000", "2.0000", "0.02000"]


def test_the_latents_that_are_written_are_those_of_the_precision(tmp_path, autoencoder):
    names = {"train": numbered(tmp_path, [5]), "val": numbered(tmp_path, [2], split="val")}
    data = captioned(tmp_path, **names)
    encoder = LatentEncoder(autoencoder, flip=False, dtype="float32", precision=BF16)
    encode(data, encoder, tmp_path / "out", batch_size=5)
    latents = captioned(tmp_path, **{**names, "train": f"{tmp_path}/out/*.tar"})
    image = finish(data.train_set.exactly(range(5))[0]).fields["image"]
    with torch.no_grad(), computing_in(BF16, torch.device("cpu")):
        expected = autoencoder.encode(image).moments
    assert expected.dtype == torch.bfloat16
    found = latents.train_set.exactly(range(5))[0].fields["moments"]
    assert found.dtype == torch.float32
    assert torch.equal(found, expected.float())
    assert latents.encoding["precision"] == BF16
    with pytest.raises(ValueError, match="facts.precision: bf16-mixed -> 32-true"):
        encode(data, LatentEncoder(autoencoder, flip=False, dtype="float32"), tmp_path / "out", batch_size=5)
    with pytest.raises(ValueError, match="precision is one of 32-true, bf16-mixed; got '16-true'"):
        LatentEncoder(autoencoder, flip=False, dtype="float32", precision="16-true")


def saved(folder, value):
    """Return the file of an autoencoder whose latents lie around a value."""
    config = {
        "_target_": "ldm.autoencoder.convolutional.ConvAutoencoder",
        "regularizer": {"_target_": "ldm.autoencoder.kl.KLRegularizer"}, "latent_channels": 2, "channels": 8,
        "channel_mult": [1, 1], "blocks": 1, "groups": 4,
    }  # fmt: skip
    torch.manual_seed(0)
    network = offset(build(config), value)
    network.statistics_count.fill_(1)
    save(folder / "autoencoder.safetensors", network, config)
    return folder / "autoencoder.safetensors"


def test_the_program_measures_first_and_then_writes(tmp_path, capsys):
    """Where the error is too large, nothing is written; else it is written down. A call that goes on compares again."""
    train, val = numbered(tmp_path, [6, 3]), numbered(tmp_path, [2], split="val")
    options = ["data.size=8", "data.workers=0", f"data.train={train}", f"data.val={val}", "precision=bf16-mixed",
               f"data.cache={tmp_path}/cache", "compared_images=5", "batch_size=2", f"out={tmp_path}/out"]  # fmt: skip
    far = saved(tmp_path / "far", 300.0)
    with pytest.raises(ValueError, match="changes these latents too much: .* set precision=32-true"):
        main(compose("encode", [f"autoencoder.ckpt={far}", *options]))
    assert not (tmp_path / "out").exists()
    near = saved(tmp_path / "near", 0.0)
    main(compose("encode", [f"autoencoder.ckpt={near}", *options]))
    assert "latents of 5 images in bf16-mixed and in 32-true" in capsys.readouterr().out
    written = json.loads((tmp_path / "out" / "encoding.json").read_text())
    assert written["facts"]["precision"] == BF16
    assert written["precision"]["images"] == 5
    assert written["precision"]["largest_error"] == LARGEST_ERROR
    assert 0 < max(written["precision"]["error"]) < LARGEST_ERROR
    (tmp_path / "out" / "train-000001.tar").unlink()
    main(compose("encode", [f"autoencoder.ckpt={near}", *options, "compared_images=3"]))
    assert "shards written: 1, shards kept: 1" in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "encoding.json").read_text()) == written
    main(compose("encode", [f"autoencoder.ckpt={near}", *options, "precision=32-true", f"out={tmp_path}/full"]))
    assert "precision:" not in capsys.readouterr().out
    assert set(json.loads((tmp_path / "full" / "encoding.json").read_text())) == {"facts", "shards"}
