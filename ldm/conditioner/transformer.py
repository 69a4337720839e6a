"""A text transformer trained together with the U-Net, from scratch, as in the paper."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor, nn

from ldm.batch import Condition, Fields, list_field
from ldm.conditioner.base import on_device, tensor_to_text, text_to_tensor
from ldm.conditioner.text import TextConditioner
from ldm.nn.attention import Attention
from ldm.options.rule import COUNT, FLAG, Whole, check
from ldm.pretrained.tokens import encode_texts, overflow, padded_tokenizer

PAD, START, END = "<pad>", "<start>", "<end>"

LEAST_VOCABULARY = 259
"""The 256 bytes, of which every text is made, and the three special tokens."""


class TransformerConditioner(TextConditioner):
    """A pre-norm transformer encoder with learned positions over the tokens of the caption.

    The tokenizer, a byte-level BPE, is learned from the captions by `prepare` and travels in the state dict.

    Args:
        width: Width of the tokens.
        depth: Number of layers.
        heads: Number of attention heads.
        head_width: Channels of each head.
        max_tokens: Length to which captions are padded or cut.
        vocabulary: Most tokens that the tokenizer may learn, at least 259: the 256 bytes and three special ones.
        mask_padding: Attend to the caption's own tokens only (the paper attends to padding, too).
        drop_rate: Fraction of the training captions that are replaced by "", in [0, 1].

    References:
        Rombach et al., 2022, section 4.3.1 and appendix E.2.1, arXiv:2112.10752; Sennrich et al., 2016, arXiv:1508.07909.
    """

    learns_from = ("caption",)

    def __init__(
        self,
        *,
        width: int = 1280,
        depth: int = 32,
        heads: int = 8,
        head_width: int = 64,
        max_tokens: int = 77,
        vocabulary: int = 30_522,
        mask_padding: bool = True,
        drop_rate: float = 0.1,
    ) -> None:
        for name, count in (("width", width), ("heads", heads), ("head_width", head_width)):
            check(f"conditioner.{name}", count, COUNT)
        check("conditioner.depth", depth, Whole(0))
        check("conditioner.max_tokens", max_tokens, Whole(3))  # one beside start and end
        check("conditioner.vocabulary", vocabulary, Whole(LEAST_VOCABULARY))
        check("conditioner.mask_padding", mask_padding, FLAG)
        super().__init__(width, drop_rate=drop_rate)
        self.max_tokens = max_tokens
        self.vocabulary = vocabulary
        self.mask_padding = mask_padding
        self.tokenizer: Tokenizer | None = None
        self.network = TransformerEncoder(
            vocabulary, max_tokens, width=width, depth=depth, heads=heads, head_width=head_width
        )

    def prepare(self, samples: Iterable[Fields] | None) -> None:
        """Learn the tokenizer from captions, unless it is there."""
        if self.tokenizer is None and samples is not None:
            captions = (caption for fields in samples for caption in list_field(fields, "caption"))
            self.tokenizer = self._ready(learn_tokenizer(captions, self.vocabulary))

    def encode_captions(self, captions: Sequence[str]) -> Condition:
        """Return the condition of captions `(B,)`: tokens `(B, L, width)` and perhaps a mask `(B, L)`."""
        encodings = encode_texts(self._tokenizer(), captions)
        device = self.place.device
        ids = on_device(torch.tensor([encoding.ids for encoding in encodings]), device)
        mask = on_device(torch.tensor([encoding.attention_mask for encoding in encodings]), device).bool()
        return self.encode_ids(ids, mask if self.mask_padding else None)

    def encode_ids(self, ids: Tensor, mask: Tensor | None) -> Condition:
        """Return the condition of token ids `(B, L)` and their mask `(B, L)`: tokens `(B, L, width)`."""
        return Condition(tokens=self.network(ids, mask), mask=mask)

    def overflow(self, captions: Sequence[str]) -> list[str]:
        """Return the end of each caption that is cut away; "" where the whole caption fits."""
        return overflow(self._tokenizer(), captions)

    @property
    def frozen_hash(self) -> None:
        """None, since it is trained."""
        return None

    def get_extra_state(self) -> Tensor:
        """Return the tokenizer, for the state dict."""
        return text_to_tensor("" if self.tokenizer is None else self.tokenizer.to_str())

    def set_extra_state(self, state: Tensor) -> None:
        """Take the tokenizer from a state dict."""
        text = tensor_to_text(state)
        self.tokenizer = self._ready(Tokenizer.from_str(text)) if text else None

    def _tokenizer(self) -> Tokenizer:
        if self.tokenizer is None:
            raise RuntimeError("this conditioner has no tokenizer yet; call prepare(samples) or load a checkpoint")
        return self.tokenizer

    def adopt_tokenizer(self, name: str) -> None:
        """Take a tokenizer that others learned, as that of BERT, with which the paper's models were trained.

        Args:
            name: Folder or hub name of the tokenizer.

        Raises:
            ValueError: If it has no token that fills captions up, or more tokens than `vocabulary`.
            FileNotFoundError: If there is none.
        """
        tokenizer, pad_id, pad_token = padded_tokenizer(name)
        if pad_id is None or pad_token is None:
            raise ValueError(f"the tokenizer {name!r} has no padding token; give another one")
        if tokenizer.get_vocab_size() > self.vocabulary:
            raise ValueError(
                f"the tokenizer {name!r} has {tokenizer.get_vocab_size()} tokens, but the network knows "
                f"{self.vocabulary}; give the one that it was trained with"
            )
        tokenizer.enable_padding(pad_id=pad_id, pad_token=pad_token)
        self.tokenizer = self._ready(tokenizer)

    def _ready(self, tokenizer: Tokenizer) -> Tokenizer:
        """Return a tokenizer that cuts captions, or fills them up with its own token for that, by default "<pad>"."""
        padding = tokenizer.padding or {"pad_id": tokenizer.token_to_id(PAD), "pad_token": PAD}
        tokenizer.enable_truncation(self.max_tokens)
        tokenizer.enable_padding(pad_id=padding["pad_id"], pad_token=padding["pad_token"], length=self.max_tokens)
        return tokenizer


class TransformerEncoder(nn.Module):
    """A pre-norm transformer encoder with learned positions.

    Args:
        vocabulary: Number of different tokens.
        max_tokens: Length of the longest sequence.
        width: Width of the tokens.
        depth: Number of layers.
        heads: Number of attention heads.
        head_width: Channels of each head.
        std: Standard deviation of the embeddings of tokens and of positions at the start.

    References:
        Rombach et al., 2022, appendix E.2.1, arXiv:2112.10752.
    """

    def __init__(
        self,
        vocabulary: int,
        max_tokens: int,
        *,
        width: int,
        depth: int,
        heads: int,
        head_width: int,
        std: float = 0.02,
    ) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.position = nn.Parameter(torch.empty(max_tokens, width))
        self.layers = nn.ModuleList(EncoderLayer(width, heads, head_width) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        nn.init.normal_(self.embed.weight, std=std)
        nn.init.normal_(self.position, std=std)

    def forward(self, ids: Tensor, mask: Tensor | None) -> Tensor:
        """Return tokens `(B, L, width)` for token ids `(B, L)` and their mask `(B, L)`."""
        x = self.embed(ids) + self.position[: ids.shape[1]]
        for layer in self.layers:
            x = layer(x, mask)
        tokens: Tensor = self.norm(x)
        return tokens


class EncoderLayer(nn.Module):
    """A layer of pre-norm self-attention and feed-forward.

    Args:
        width: Width of the tokens.
        heads: Number of attention heads.
        head_width: Channels of each head.

    References:
        Vaswani et al., 2017, section 3.1, arXiv:1706.03762.
    """

    def __init__(self, width: int, heads: int, head_width: int) -> None:
        super().__init__()
        self.norm_attend = nn.LayerNorm(width)
        self.attend = Attention(width, heads, head_width=head_width)
        self.norm_feed = nn.LayerNorm(width)
        self.feed = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Return new tokens `(B, L, width)` for tokens of this shape and their mask `(B, L)`."""
        x = x + self.attend(self.norm_attend(x), mask=mask)
        tokens: Tensor = x + self.feed(self.norm_feed(x))
        return tokens


def learn_tokenizer(captions: Iterable[str], vocabulary: int) -> Tokenizer:
    """Return a lower-casing byte-level BPE tokenizer of at most `vocabulary` tokens, the same for the same captions."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD, START, END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(captions, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}", special_tokens=[(name, tokenizer.token_to_id(name)) for name in (START, END)]
    )
    return tokenizer
