"""The CLIP score of images and prompts, as a likelihood to guide by."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import CLIPModel
from transformers.utils.constants import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from ldm.files.text import shortened
from ldm.options.rule import Real, check
from ldm.pretrained.loading import WEIGHTS, loading
from ldm.pretrained.tokens import load_tokenizer, overflow
from ldm.pretrained.vision import standardized

log = logging.getLogger(__name__)


class CLIPScore:
    """Measure how well images fit their prompts: log p(prompt | image) = strength * cosine of CLIP's two embeddings + const.

    Args:
        name: Name of the model on the hub, or a local folder.
        strength: Factor of the cosine; CLIP's own, the inverse of its temperature, is 100.
        option: Name of the option by which a user names the model, for errors.

    Raises:
        FileNotFoundError: Where there is no such model.

    References:
        Radford et al., 2021, figure 3, arXiv:2103.00020; Nichol et al., 2022, section 2.4, arXiv:2112.10741 (with a CLIP
        that was trained on noisy images; this one sees the clean estimate).
    """

    def __init__(self, name: str, *, strength: float = 100.0, option: str = "guidance.score.name") -> None:
        check("guidance.score.strength", strength, Real())
        files = "config, safetensors weights and tokenizer"
        with loading("CLIP model", name, files=files, advice=f"set {option}=FOLDER") as local:
            self.network = CLIPModel.from_pretrained(name, local_files_only=local, **WEIGHTS)
            self.tokenizer = load_tokenizer(name, local=local)
        self.network.requires_grad_(False).eval()
        self.size = int(self.network.config.vision_config.image_size)  # type: ignore[union-attr,arg-type]
        self.strength = strength
        self._warned: set[str] = set()
        self._embedded: dict[tuple[str, ...], Tensor] = {}

    def log_likelihood(self, image: Tensor, prompts: Sequence[str]) -> Tensor:
        """Return the log-likelihood of prompts given images, up to a constant.

        Args:
            image: Images `(B, 3, H, W)` in [-1, 1], of any size.
            prompts: A prompt for each image.

        Returns:
            Log-likelihoods `(B,)`, through which gradients flow to the images.
        """
        return self.strength * F.cosine_similarity(self.embed_images(image), self._wanted(prompts, image.device))

    def embed_images(self, image: Tensor) -> Tensor:
        """Return the embeddings `(B, D)`, of any length, of images `(B, 3, H, W)` in [-1, 1]."""
        network = self.network.to(image.device)  # type: ignore[arg-type]
        pixels = standardized(image, self.size, OPENAI_CLIP_MEAN, OPENAI_CLIP_STD)
        seen: Tensor = network.get_image_features(pixels).pooler_output
        return seen

    def embed_texts(self, prompts: Sequence[str], device: torch.device | str) -> Tensor:
        """Return the embeddings `(N, D)`, of any length, of texts; what CLIP cuts away from one is logged once."""
        network = self.network.to(device)  # type: ignore[arg-type]
        words = self.tokenizer(
            list(prompts), padding=True, truncation=True, return_tensors="pt", split_special_tokens=True
        ).to(device)
        self._warn_of_overflow(prompts)
        text: Tensor = network.get_text_features(**words).pooler_output
        return text

    def _wanted(self, prompts: Sequence[str], device: torch.device) -> Tensor:
        """Return the embeddings of prompts, `(B, D)`; each step of a sampler asks for the same, or for two ends in turn."""
        key = tuple(prompts)
        if key not in self._embedded:
            if len(self._embedded) == 2:
                self._embedded.clear()
            self._embedded[key] = self.embed_texts(prompts, device)
        return self._embedded[key].to(device)

    def _warn_of_overflow(self, prompts: Sequence[str]) -> None:
        """Log once for each prompt the part that the tokenizer, which has just read it, has cut away."""
        different = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._warned]
        self._warned.update(different)
        for prompt, rest in zip(different, overflow(self.tokenizer.backend_tokenizer, different), strict=True):
            if rest:
                log.warning(
                    f"the prompt {shortened(prompt)!r} is longer than CLIP takes; cut away is {shortened(rest)!r}"
                )
