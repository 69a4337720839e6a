"""A frozen pretrained text encoder from Hugging Face."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, CLIPTextModel, T5EncoderModel

from ldm.batch import Condition, Fields
from ldm.conditioner.base import on_device, tensor_to_text, text_to_tensor
from ldm.conditioner.learned_words import LearnedWords
from ldm.conditioner.text import TextConditioner
from ldm.options.rule import COUNT, FLAG, Whole, check
from ldm.pretrained.architectures import text_architecture
from ldm.pretrained.loading import WEIGHTS, loading
from ldm.pretrained.tokens import encode_texts, load_tokenizer, overflow, padded_tokenizer

ENCODERS: dict[str, Any] = {"clip": CLIPTextModel, "clip_text_model": CLIPTextModel, "t5": T5EncoderModel}
"""Types of models with a part that encodes text -> the class of that part; all others are loaded by AutoModel."""

WORDLESS = "<unknown>"
"""The only token of a tokenizer without words."""


class HuggingFaceConditioner(TextConditioner):
    """The hidden states of any Hugging Face text encoder (CLIP, T5, BERT, ...), never trained.

    Its architecture, weights and tokenizer go into the checkpoint, so that sampling needs neither hub nor folder.

    Args:
        name: Name of the model on the hub, or a local folder.
        width: Width of its hidden states.
        max_tokens: Length to which captions are padded or cut.
        mask_padding: Attend to the caption's own tokens only, in the encoder and in what is conditioned on it. False: to all
            of them in both, as Stable Diffusion does with CLIP. (The encoder is then given no mask. What stands in the
            padding is the tokenizer's choice: CLIP's repeats <|endoftext|>, the token that ends each caption.)
        layer: The layer whose hidden states are taken, counted from the end: -1 is the last one, -2 the one before it, as in
            Stable Diffusion 2. The layers behind it are left out; the encoder's final norm, where it has one, is not.
        pad_token: The token that fills captions up; None: the tokenizer's own. OpenCLIP's is "!".
        drop_rate: Fraction of the training captions that are replaced by "", in [0, 1].

    References:
        Rombach et al., 2022, section 3.3, arXiv:2112.10752; Saharia et al., 2022, section 2.1, arXiv:2205.11487.
    """

    def __init__(
        self,
        name: str,
        *,
        width: int,
        max_tokens: int = 77,
        mask_padding: bool = True,
        layer: int = -1,
        pad_token: str | None = None,
        drop_rate: float = 0.1,
    ) -> None:
        check("conditioner.width", width, COUNT)
        check("conditioner.max_tokens", max_tokens, COUNT)
        check("conditioner.mask_padding", mask_padding, FLAG)
        check("conditioner.layer", layer, Whole(-1000, -1))
        super().__init__(width, drop_rate=drop_rate)
        self.name = name
        self.max_tokens = max_tokens
        self.mask_padding = mask_padding
        self.layer = layer
        self.pad_token = pad_token
        self.words = LearnedWords()
        self.tokenizer: Tokenizer | None = None
        self.encoder: nn.Module | None = None

    def prepare(self, samples: Iterable[Fields] | None) -> None:
        """Load the pretrained encoder and its tokenizer, unless they are there; no samples are read."""
        if self.encoder is not None:
            return
        files = "config, safetensors weights and tokenizer"
        advice = "set conditioner.name=FOLDER, or train one from scratch with conditioner=transformer"
        with loading("text encoder", self.name, files=files, advice=advice) as local:
            config = AutoConfig.from_pretrained(self.name, local_files_only=local)
            encoder_class = ENCODERS.get(config.model_type, AutoModel)
            if encoder_class is not AutoModel:
                config = encoder_class.config_class.from_pretrained(self.name, local_files_only=local)
            layers: int = config.num_hidden_layers
            config.num_hidden_layers = max(layers + self.layer + 1, 1)  # those behind the wanted one are not built
            encoder = encoder_class.from_pretrained(self.name, config=config, local_files_only=local, **WEIGHTS)
            tokenizer = load_tokenizer(self.name, local=local)
        if layers + self.layer < 0:
            raise ValueError(
                f"conditioner.layer={self.layer}, but {self.name!r} has {layers} layers; give -{layers} to -1"
            )
        most = getattr(config, "max_position_embeddings", None)
        if most is not None and self.max_tokens > most:
            raise ValueError(
                f"conditioner.max_tokens={self.max_tokens} is more than the {most} tokens that {self.name!r} knows places for; "
                f"give at most {most}"
            )
        self._adopt(encoder)
        pad_token = self.pad_token or tokenizer.pad_token
        pad_id = None if pad_token is None else tokenizer.backend_tokenizer.token_to_id(pad_token)
        self._adopt_tokenizer(tokenizer.backend_tokenizer, pad_id, pad_token)

    def adopt(self, architecture: dict[str, Any], tokenizer: str) -> None:
        """Take an encoder of an architecture, whose weights are to be loaded, and a tokenizer.

        Args:
            architecture: Options of its config in transformers, `model_type` among them.
            tokenizer: Folder or hub name of the tokenizer.

        Raises:
            ValueError: If the hidden states have another width than `width`, or the tokenizer has more tokens than the encoder.
            FileNotFoundError: If there is no tokenizer.
        """
        config = AutoConfig.for_model(**architecture)
        found, pad_id, pad_token = padded_tokenizer(tokenizer, self.pad_token)
        if found.get_vocab_size() > config.vocab_size:
            raise ValueError(
                f"the tokenizer {tokenizer!r} has {found.get_vocab_size()} tokens, but the text encoder knows "
                f"{config.vocab_size}; give tokenizer=FOLDER with the one that it was trained with to "
                "python -m ldm.interop.load"
            )
        self._adopt(_untrained(config))
        self._adopt_tokenizer(found, pad_id, pad_token)

    def build_untrained(self) -> bool:
        """Build the encoder with random weights and a tokenizer without words, to count what it computes; nothing is loaded.

        Returns:
            False where its architecture is neither on this machine nor known; then nothing was built.
        """
        config = text_architecture(self.name)
        if config is None:
            return False
        config.num_hidden_layers = max(config.num_hidden_layers + self.layer + 1, 1)
        self._adopt(_untrained(config))
        tokenizer = Tokenizer(WordLevel({WORDLESS: 0}, unk_token=WORDLESS))
        self._adopt_tokenizer(tokenizer, 0, WORDLESS)
        return True

    @property
    def input_width(self) -> int:
        """Length of the vectors that the encoder takes for tokens."""
        return int(self._parts()[1].get_input_embeddings().embedding_dim)  # type: ignore[operator]

    def add_word(self, word: str, vectors: Tensor) -> None:
        """Learn a word; see `TextConditioner.add_word`."""
        tokenizer, encoder = self._parts()
        tokens = self.words.add(word, len(vectors))
        tokenizer.add_tokens([AddedToken(token, normalized=False) for token in tokens])
        numbers = [number for token in tokens if (number := tokenizer.token_to_id(token)) is not None]
        size = max(encoder.config.vocab_size, max(numbers) + 1)  # type: ignore[union-attr,type-var]
        encoder.resize_token_embeddings(size, mean_resizing=False).requires_grad_(False)  # type: ignore[operator]
        weight = encoder.get_input_embeddings().weight  # type: ignore[operator]
        weight.data[numbers] = vectors.to(weight)

    def encode_captions(self, captions: Sequence[str]) -> Condition:
        """Return the condition of captions `(B,)`: tokens `(B, L, width)` and perhaps a mask `(B, L)`."""
        tokenizer, encoder = self._parts()
        encodings = encode_texts(tokenizer, self.words.spelled(captions))
        device = next(encoder.parameters()).device
        ids = on_device(torch.tensor([encoding.ids for encoding in encodings]), device)
        mask = None
        if self.mask_padding:
            mask = on_device(torch.tensor([encoding.attention_mask for encoding in encodings]), device)
        with torch.no_grad():
            tokens = encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        return Condition(tokens=tokens.float(), mask=None if mask is None else mask.bool())

    def overflow(self, captions: Sequence[str]) -> list[str]:
        """Return the end of each caption that is cut away; "" where the whole caption fits."""
        return self.words.read(overflow(self._parts()[0], self.words.spelled(captions)))

    @property
    def frozen_hash(self) -> str:
        """A name for encoder, tokenizer and length, by which cached tokens are known."""
        tokenizer, encoder = self._parts()
        digest = hashlib.sha256(f"{self.max_tokens}{tokenizer.to_str()}".encode())
        if not self.mask_padding:
            digest.update(b"padding is attended to")
        for name, tensor in encoder.state_dict().items():
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().float().numpy().tobytes())
        return digest.hexdigest()[:16]

    def train(self, mode: bool = True) -> HuggingFaceConditioner:
        """Stay in evaluation mode, since a frozen encoder has no use for dropout."""
        return super().train(False)

    def get_extra_state(self) -> Tensor:
        """Return architecture and tokenizer, for the state dict."""
        if self.encoder is None or self.tokenizer is None:
            return text_to_tensor("")
        config = self.encoder.config.to_dict()  # type: ignore[operator,union-attr]
        return text_to_tensor(json.dumps({"encoder": config, "tokenizer": self.tokenizer.to_str()}, default=str))

    def set_extra_state(self, state: Tensor) -> None:
        """Take architecture and tokenizer from a state dict."""
        text = tensor_to_text(state)
        if text:
            content = json.loads(text)
            self.tokenizer = Tokenizer.from_str(content["tokenizer"])
            if self.encoder is None:
                config = AutoConfig.for_model(**content["encoder"])
                self._adopt(_untrained(config))

    def _parts(self) -> tuple[Tokenizer, nn.Module]:
        if self.tokenizer is None or self.encoder is None:
            raise RuntimeError(
                "this conditioner has no text encoder yet, which every text needs that is not cached, also the empty one; call "
                "prepare(None) or load a checkpoint"
            )
        return self.tokenizer, self.encoder

    def _adopt(self, encoder: nn.Module) -> None:
        found = encoder.config.hidden_size  # type: ignore[union-attr]
        if found != self.width:
            raise ValueError(f"the hidden states of {self.name!r} have width {found}; set conditioner.width={found}")
        self.encoder = encoder.requires_grad_(False).eval()

    def _adopt_tokenizer(self, tokenizer: Tokenizer, pad_id: int | None, pad_token: str | None) -> None:
        if pad_id is None or pad_token is None:
            raise ValueError(
                f"the tokenizer of {self.name!r} has no padding token{f' {pad_token!r}' if pad_token else ''}; set "
                "conditioner.pad_token to a token that it has, or choose another encoder"
            )
        special = tokenizer.num_special_tokens_to_add(False)
        if self.max_tokens <= special:
            raise ValueError(
                f"conditioner.max_tokens={self.max_tokens} leaves no place for a caption: {special} tokens are those that the "
                f"tokenizer of {self.name!r} puts around each; give more"
            )
        tokenizer.enable_truncation(self.max_tokens)
        tokenizer.enable_padding(pad_id=pad_id, pad_token=pad_token, length=self.max_tokens)
        self.tokenizer = tokenizer


def _untrained(config: Any) -> nn.Module:
    """Return the encoder of a config of transformers, with random weights."""
    encoder_class = ENCODERS.get(config.model_type)
    made: nn.Module = encoder_class(config) if encoder_class else AutoModel.from_config(config)
    return made
