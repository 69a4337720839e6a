"""Names of the modules of text transformers in the layouts of other programs."""

from __future__ import annotations

from collections.abc import Iterator

from ldm.interop.change import Fused
from ldm.interop.translation import Stem, stem


def hugging_face_clip(layers: int, *, inner: str = "text_model.") -> Iterator[Stem]:
    """Yield the names in CLIP's text model of transformers, which CompVis and diffusers share.

    Args:
        layers: Number of layers.
        inner: The beginning of all names; files of today's transformers have none.
    """
    names = [f"embeddings.{kind}_embedding" for kind in ("token", "position")]
    for layer in range(layers):
        block = f"encoder.layers.{layer}"
        names += [f"{block}.self_attn.{part}_proj" for part in ("q", "k", "v", "out")]
        names += [f"{block}.{part}" for part in ("layer_norm1", "layer_norm2", "mlp.fc1", "mlp.fc2")]
    for name in [*names, "final_layer_norm"]:
        yield stem(name, f"{inner}{name}")


def open_clip(layers: int) -> Iterator[Stem]:
    """Yield the names in OpenCLIP's text model, without the prefix "model."; `layers` is the number of layers in use."""
    yield stem("embeddings.token_embedding", "token_embedding")
    yield stem("embeddings.position_embedding.weight", "positional_embedding")
    for layer in range(layers):
        ours, theirs = f"encoder.layers.{layer}", f"transformer.resblocks.{layer}"
        three = [f"{ours}.self_attn.{part}_proj" for part in ("q", "k", "v")]
        yield Stem(three, f"{theirs}.attn.in_proj_", Fused())
        yield stem(f"{ours}.self_attn.out_proj", f"{theirs}.attn.out_proj")
        yield stem(f"{ours}.layer_norm1", f"{theirs}.ln_1")
        yield stem(f"{ours}.layer_norm2", f"{theirs}.ln_2")
        yield stem(f"{ours}.mlp.fc1", f"{theirs}.mlp.c_fc")
        yield stem(f"{ours}.mlp.fc2", f"{theirs}.mlp.c_proj")
    yield stem("final_layer_norm", "ln_final")


def x_transformer(depth: int) -> Iterator[Stem]:
    """Yield the names that CompVis gives to our trained transformer; there attention and feed-forward are separate layers."""
    yield stem("embed", "token_emb")
    yield stem("position", "pos_emb.emb.weight")
    for layer in range(depth):
        attend, feed = (f"attn_layers.layers.{2 * layer + part}" for part in (0, 1))
        yield stem(f"layers.{layer}.norm_attend", f"{attend}.0")
        for own, theirs in (("query", "to_q"), ("key", "to_k"), ("value", "to_v"), ("out", "to_out")):
            yield stem(f"layers.{layer}.attend.{own}", f"{attend}.1.{theirs}")
        yield stem(f"layers.{layer}.norm_feed", f"{feed}.0")
        yield stem(f"layers.{layer}.feed.0", f"{feed}.1.net.0.0")
        yield stem(f"layers.{layer}.feed.2", f"{feed}.1.net.2")
    yield stem("norm", "norm")


def ldm_bert(depth: int) -> Iterator[Stem]:
    """Yield the names that diffusers' LDMBertModel gives to our trained transformer."""
    yield stem("embed", "model.embed_tokens")
    yield stem("position", "model.embed_positions.weight")
    for layer in range(depth):
        block = f"model.layers.{layer}"
        yield stem(f"layers.{layer}.norm_attend", f"{block}.self_attn_layer_norm")
        for own, theirs in (("query", "q"), ("key", "k"), ("value", "v"), ("out", "out")):
            yield stem(f"layers.{layer}.attend.{own}", f"{block}.self_attn.{theirs}_proj")
        yield stem(f"layers.{layer}.norm_feed", f"{block}.final_layer_norm")
        yield stem(f"layers.{layer}.feed.0", f"{block}.fc1")
        yield stem(f"layers.{layer}.feed.2", f"{block}.fc2")
    yield stem("norm", "model.layer_norm")
