"""Weights that others have published: what they are, where they lie on this machine, and how they get here."""

from __future__ import annotations

import json
import shutil
from abc import ABC, abstractmethod
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple

import torch
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # exported for whoever catches its errors
from safetensors import SafetensorError, safe_open
from transformers.safetensors_conversion import get_conversion_pr_reference

from ldm.files.digest import sha256_of

WANTED = ["*.json", "*.txt", "model.safetensors", "model-*-of-*.safetensors"]
"""Files of a model on the hub that are loaded: config, tokenizer, weights. Weights in any format that can hold code are not."""

ELSEWHERE = ["*/*"]
"""Files of the hub in folders of their own: the same model for other libraries."""


class Use(NamedTuple):
    """A choice that needs published weights.

    Attributes:
        program: The program whose config has the choice: its config is `configs/<program>.yaml`.
        choice: The choice as it is typed, like "conditioner=clip_l".
        option: Name of the option that takes a local copy, like "conditioner.name".
    """

    program: str
    choice: str
    option: str


@dataclass(frozen=True, kw_only=True)
class PublishedWeights(ABC):
    """Weights that are loaded from elsewhere.

    Args:
        name: Name by which `python -m ldm.fetch` knows them.
        title: Description for a list.
        megabytes: About how many millions of bytes are fetched.
        licence: Licence under which they are published.
        uses: Choices that need them.
    """

    name: str
    title: str
    megabytes: int
    licence: str
    uses: tuple[Use, ...]

    @property
    @abstractmethod
    def target(self) -> str:
        """Name of the file or folder that `fetch` makes in a folder."""

    @abstractmethod
    def cached(self) -> Path | None:
        """Return where they lie in the cache that the loader looks into; None where they are not there, or not whole."""

    @abstractmethod
    def fetch(self, folder: Path | None = None) -> Path:
        """Bring the weights to this machine, unless they are there, and check them; they appear whole or not at all.

        Args:
            folder: Where the file or folder `target` shall lie; None: in the cache that the loader looks into.

        Returns:
            The file or the folder.

        Raises:
            OSError: Where they cannot be had, or what came is not what was published.
            ValueError: Where something else lies in their place, which is left as it is.
        """


@dataclass(frozen=True, kw_only=True)
class WeightFile(PublishedWeights):
    """A file of weights in the cache of torch, like those of torchvision.

    Args:
        name: Name by which `python -m ldm.fetch` knows it.
        title: Description for a list.
        megabytes: About how many millions of bytes it has.
        licence: Licence under which it is published.
        uses: Choices that need it.
        url: Address where it is published; its name ends with "-" and the first digits of the SHA-256 of the content.
    """

    url: str

    @property
    def target(self) -> str:
        """Name of the file."""
        return self.url.rpartition("/")[2]

    def cached(self) -> Path | None:
        """Return the file in the cache of torch; None where it is not there."""
        file = self._cache / self.target
        return file if file.is_file() else None

    def fetch(self, folder: Path | None = None) -> Path:
        """Download the file, unless it is there, and check it by its hash; see `PublishedWeights`."""
        file = (self._cache if folder is None else folder) / self.target
        if file.exists():
            self._check(file)
            return file
        if folder is None:
            return self.load()
        draft = file.with_name(f".{file.name}")
        for left in folder.glob(f"{draft.name}*"):  # by a process that was killed
            left.unlink()
        self._download(draft)
        return draft.replace(file)

    def load(self) -> Path:
        """Return the file in the cache of torch; download it where it is not there.

        Raises:
            OSError: Where it cannot be downloaded, or has another hash.
        """
        found = self.cached()
        if found is None:
            found = self._cache / self.target
            found.parent.mkdir(parents=True, exist_ok=True)
            self._download(found)
        return found

    def needed(self, error: OSError) -> str:
        """Return the part of an error that says which file is needed where, and where it is published.

        Args:
            error: Why it could not be downloaded.
        """
        return (
            f"needs {self.target} in torch's cache, {self._cache}, and could not download it from {self.url} ({error})"
        )

    @property
    def _cache(self) -> Path:
        return Path(torch.hub.get_dir()) / "checkpoints"

    @property
    def _digest(self) -> str:
        return Path(self.target).stem.rpartition("-")[2]

    def _download(self, file: Path) -> None:
        try:
            torch.hub.download_url_to_file(self.url, str(file), hash_prefix=self._digest)
        except (RuntimeError, HTTPException) as error:  # another content than that with this hash; a broken connection
            raise OSError(str(error)) from error

    def _check(self, file: Path) -> None:
        found = sha256_of(file)
        if not found.startswith(self._digest):
            raise ValueError(
                f"{file} is not what was published under this name: its SHA-256 begins with {found[:8]}, not "
                f"{self._digest}; remove it, and type the same command again"
            )


@dataclass(frozen=True, kw_only=True)
class HubModel(PublishedWeights):
    """A model of the Hugging Face hub.

    Args:
        name: Name by which `python -m ldm.fetch` knows it.
        title: Description for a list.
        megabytes: About how many millions of bytes its weights have.
        licence: Licence under which it is published.
        uses: Choices that need it.
        repository: Its name on the hub.
        readers: Files that say how texts or images become its inputs, without which it would read them otherwise, and in silence.
    """

    repository: str
    readers: tuple[str, ...] = ()

    @property
    def target(self) -> str:
        """Name of the folder."""
        return self.name

    def cached(self) -> Path | None:
        """Return the folder in the cache of the hub; None where it is not there, or not whole."""
        try:
            folder = self._download(local_files_only=True)
        except OSError:
            return None
        return folder if self._is_whole(folder) else None

    def fetch(self, folder: Path | None = None) -> Path:
        """Download the model, unless it is there, and compare its files with the hub's hashes; see `PublishedWeights`."""
        try:
            return self._into_cache() if folder is None else self._into(folder)
        except httpx.HTTPError as error:
            raise OSError(str(error)) from error

    def _into_cache(self) -> Path:
        if (found := self.cached()) is not None:
            return found
        made = self._download()
        if not self._is_whole(made):
            raise OSError(
                f"{self.repository} holds weights without code only in a version of their own, which is not found by its name "
                "without internet; bring it into a folder: out=FOLDER"
            )
        if damaged := self._damaged():
            raise OSError(f"{', '.join(damaged)} in {made} is not what the hub has; remove it")
        return made

    def _into(self, folder: Path) -> Path:
        made = folder / self.target
        if made.exists():
            if not self._is_whole(made):
                raise ValueError(
                    f"{made} is there, but holds no whole model; nothing was changed: remove it, or name another"
                )
            return made
        draft = folder / f".{self.target}"
        self._download(draft)
        revision = None
        if not self._is_whole(draft):  # then they are where transformers finds them, too
            revision = get_conversion_pr_reference(HfApi(), self.repository)
            self._download(draft, revision)
        if damaged := self._damaged(draft, revision):
            shutil.rmtree(draft)
            raise OSError(f"{', '.join(damaged)} came damaged, and was removed")
        if not self._is_whole(draft):
            raise OSError(f"{self.repository} holds no weights without code (safetensors)")
        shutil.rmtree(draft / ".cache", ignore_errors=True)  # what the hub's library needs to go on
        return draft.rename(made)

    def _download(
        self, folder: Path | None = None, revision: str | None = None, *, local_files_only: bool = False
    ) -> Path:
        found = snapshot_download(
            self.repository,
            revision=revision,
            local_dir=folder,
            allow_patterns=WANTED,
            ignore_patterns=ELSEWHERE,
            local_files_only=local_files_only,
        )
        return Path(found)

    def _is_whole(self, folder: Path) -> bool:
        """Return whether a folder holds the model: config, readers, and all weights as safetensors that are not cut."""
        index = folder / "model.safetensors.index.json"
        weights = ["model.safetensors"]
        if index.is_file():
            weights = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        if not all((folder / name).is_file() for name in ("config.json", *self.readers, *weights)):
            return False
        try:
            for name in weights:
                with safe_open(folder / name, "pt"):
                    pass  # reads the header, and compares it with the length of the file
        except SafetensorError:
            return False
        return True

    def _damaged(self, folder: Path | None = None, revision: str | None = None) -> list[str]:
        """Return the files in a folder, or in the cache, that have another hash than on the hub."""
        compared = HfApi().verify_repo_checksums(self.repository, local_dir=folder, revision=revision)
        return [one["path"] for one in compared.mismatches]
