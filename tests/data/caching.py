"""Write small shards whose samples have several captions, and shards of their latents and tokens, for tests of caches."""

import json
from itertools import product

import torch

from ldm.autoencoder.convolutional import ConvAutoencoder
from ldm.autoencoder.kl import KLRegularizer
from ldm.conditioner.huggingface import HuggingFaceConditioner
from ldm.data.shards.names import write_shards
from ldm.data.transforms import CaptionChoice
from ldm.encode.encoder import LatentEncoder, encode
from tests.conditioner.test_conditioner import save_pretrained
from tests.data.small_shards import captioned, sample

WORDS = [f"a {color} {icon}" for color, icon in product(("red", "blue", "white"), ("cat", "heart", "sailboat"))]
"""Texts that the tokenizer of the text encoder tells apart."""

SEVERAL = {"txt": 1, "alts": 3}
"""The fields of the captions of `several_captions`, with weights."""


def small_autoencoder(seed):
    """Return an autoencoder with random weights."""
    torch.manual_seed(seed)
    return ConvAutoencoder(
        KLRegularizer(), latent_channels=2, channels=8, channel_mult=[1, 1], blocks=1, groups=4
    ).eval()


def text_encoder(folder, seed):
    """Return a frozen text encoder with random weights, which is saved in a folder."""
    torch.manual_seed(seed)
    save_pretrained(folder, "bert")
    conditioner = HuggingFaceConditioner(str(folder), width=16, max_tokens=9, drop_rate=0.5)
    conditioner.prepare(None)
    return conditioner


def captions_of(number):
    """Return the .txt and the list of a sample: of some the list is empty, of some it repeats the .txt."""
    alts = [WORDS[(number + 2 * step) % len(WORDS)] for step in range(number % 4)]
    return WORDS[number % len(WORDS)], alts


def several_captions(folder):
    """Write two shards of 13 training samples, and one of 4 validation samples, with one to four captions each.

    Returns:
        The options that name them.
    """
    for split, count in (("train", 13), ("val", 4)):
        samples = []
        for number in range(count):
            text, alts = captions_of(number)
            record = json.dumps({"alts": alts}).encode()
            samples.append(sample(f"{split}-{number}", number=number, txt=text.encode(), json=record))
        write_shards(samples, folder, split, samples_per_shard=7)
    return {"train": f"{folder}/train-*.tar", "val": f"{folder}/val-*.tar"}


def cached(folder, shards, autoencoder, conditioner, *, fields=SEVERAL, out="latents", **options):
    """Encode the training shards with the tokens of their captions, and return what was counted and the new names."""
    data = captioned(folder, **shards, caption=CaptionChoice(fields), seed=9)
    settings = {"flip": True, "dtype": "float32", "conditioner": conditioner, **options}
    done = encode(data, LatentEncoder(autoencoder, **settings), folder / out, batch_size=4)
    return done, {**shards, "train": f"{folder}/{out}/*.tar"}
