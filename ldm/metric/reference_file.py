"""Files of statistics of real images: our own, and those of torch-fidelity, pytorch-fid, clean-fid and ADM."""

from __future__ import annotations

import hashlib
import pickle
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from ldm.files.picture import from_levels
from ldm.files.whole import written_whole
from ldm.metric.statistics import Reference, ReferenceBuilder, Statistics, evenly_spaced
from ldm.pretrained.extractor import Extractor

LAYOUTS = (
    "known are .safetensors of this project; .npz with mu and sigma (pytorch-fid, clean-fid, ADM; mu_s and sigma_s for sFID), "
    "with feats (clean-fid's for KID) or with images as arr_0 (ADM); .pt with mu and sigma (torch-fidelity's cache)"
)


def reference_file(cache: Path, fingerprint: str, signature: str, real_features: int) -> Path:
    """Return the file of a cache for what is known of real images.

    Args:
        cache: Folder of the cache.
        fingerprint: A name for the images.
        signature: The signature of the extractor.
        real_features: The most images whose single features are in it.
    """
    key = hashlib.sha256(f"{fingerprint}/{signature}/{real_features}".encode()).hexdigest()[:16]
    return cache / f"reference-{signature}-{key}.safetensors"


def cached_reference(file: Path, signature: str) -> Reference | None:
    """Return the statistics of real images from a file; None where it is missing or unusable and has to be made again."""
    try:
        return Reference.read(file, signature) if file.is_file() else None
    except ValueError:
        return None


def read_reference(
    file: str | Path,
    extractor: Extractor,
    *,
    real_features: int = 0,
    batch_size: int = 64,
    device: torch.device | str = "cpu",
) -> Reference:
    """Read what is known of real images. Nothing is loaded in a way that could run code.

    Files of others do not say which network made them: that they are of this extractor, resized as it resizes, is the user's
    word. Where a file of ADM holds its images, mean and covariance are those in the file, and features are taken of the images.

    Args:
        file: The file; its ending says whose it is.
        extractor: The network that made the features, on `device`.
        real_features: The most images whose single features are wanted, evenly spread.
        batch_size: Images of a file of ADM that are looked at at once.
        device: Device of the extractor.

    Returns:
        Statistics, and features where they are wanted and the file has them.

    Raises:
        FileNotFoundError: Where there is no such file.
        ValueError: Where it holds something else, or features of another length than the extractor's.
    """
    file = Path(file)
    if not file.is_file():
        raise FileNotFoundError(f"no reference statistics at {file}; {LAYOUTS}")
    if file.suffix == ".safetensors":
        found = Reference.read(file, extractor.signature)
    elif file.suffix == ".npz":
        found = _read_npz(file, extractor, real_features, batch_size, device)
    elif file.suffix == ".pt":
        content = _read_pt(file)
        found = Reference(_checked(file, content["mu"], content["sigma"]))
    else:
        raise ValueError(f"{file} is of an unknown layout; {LAYOUTS}")
    if found.statistics.width != extractor.num_features:
        raise ValueError(
            f"{file} holds statistics of {found.statistics.width} features, but {extractor.signature} gives "
            f"{extractor.num_features}; give a file that was made with this network"
        )
    return found


def write_statistics(file: str | Path, statistics: Statistics, *, spatial: Statistics | None = None) -> None:
    """Write mean and covariance for other programs; the file appears whole or not at all.

    Args:
        file: A file that is not there: .npz for pytorch-fid, clean-fid and ADM, .pt for torch-fidelity's cache.
        statistics: Mean and covariance.
        spatial: Mean and covariance of the features of sFID (`SpatialInception`), without which ADM's evaluation does not read
            the file.

    Raises:
        FileExistsError: Where something is there.
        ValueError: Where the ending is another, or cannot have what is spatial.
    """
    file = Path(file)
    check_statistics_file(file, spatial=spatial is not None)
    mean, covariance = _arrays(statistics)
    with written_whole(file) as draft, draft.open("wb") as content:
        if spatial is not None:
            places, arrangement = _arrays(spatial)
            np.savez(content, mu=mean, sigma=covariance, mu_s=places, sigma_s=arrangement)
        elif file.suffix == ".npz":
            np.savez(content, mu=mean, sigma=covariance)
        else:
            torch.save({"mu": mean, "sigma": covariance}, content)


def check_statistics_file(file: Path, *, spatial: bool) -> None:
    """Raise what `write_statistics` does where it cannot write a file; `spatial`: whether statistics of sFID are written, too."""
    if spatial and file.suffix != ".npz":
        raise ValueError(f"{file} cannot have the statistics of sFID, which ADM's .npz alone has; give that ending")
    if file.suffix not in (".npz", ".pt"):
        raise ValueError(f"{file} shall be written, but only .npz and .pt are known; give one of these endings")
    if file.exists():
        raise FileExistsError(f"{file} is there, and nothing was changed; give another name")


def _arrays(statistics: Statistics) -> tuple[np.ndarray, np.ndarray]:
    return statistics.mean.cpu().numpy(), statistics.covariance.cpu().numpy()


def npz_images(file: Path, batch_size: int) -> Iterator[Tensor]:
    """Yield the images of a file of ADM, `arr_0` `(N, H, W, 3)` uint8, as `(B, 3, H, W)` in [-1, 1]; no more are read at once.

    Raises:
        ValueError: Where it holds something else.
    """
    with zipfile.ZipFile(file) as archive, archive.open("arr_0.npy") as content:
        shape = _image_shape(file, content)
        size = int(np.prod(shape[1:]))
        for first in range(0, shape[0], batch_size):
            count = min(batch_size, shape[0] - first)
            data = content.read(count * size)
            if len(data) < count * size:
                raise ValueError(f"{file} is cut off: it holds fewer than the {shape[0]} images that it speaks of")
            levels = torch.frombuffer(bytearray(data), dtype=torch.uint8).view(count, *shape[1:])
            yield from_levels(levels.permute(0, 3, 1, 2))


def _image_shape(file: Path, content: Any) -> tuple[int, ...]:
    """Read the header of an array of images, and return its shape."""
    version = np.lib.format.read_magic(content)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, columns_first, dtype = read(content)
    if dtype != np.uint8 or len(shape) != 4 or shape[3] != 3 or columns_first:
        raise ValueError(f"{file} holds arr_0 {shape} {dtype}; images are (N, H, W, 3) uint8")
    return tuple(shape)


def _read_npz(
    file: Path, extractor: Extractor, real_features: int, batch_size: int, device: torch.device | str
) -> Reference:
    try:
        with file.open("rb") as content, np.load(content, allow_pickle=False) as arrays:
            names = set(arrays.files)
            known = {name: arrays[name] for name in (*extractor.statistics_names, "feats") if name in names}
    except (ValueError, TypeError, OSError, zipfile.BadZipFile, EOFError) as error:
        pickled = "pickle" in str(error)  # numpy's own advice is to run what is in the file
        reason = "it is broken, or holds objects" if pickled else str(error).splitlines()[0]
        raise ValueError(f"{file} is no .npz of numbers ({reason}); {LAYOUTS}") from error
    features = None
    if "feats" in known:
        features = _features(file, known["feats"])
    found = [known[name] for name in extractor.statistics_names if name in known]
    statistics = _checked(file, *found) if len(found) == 2 else None
    if "arr_0" in names and (statistics is None or (real_features and features is None)):
        looked = _look(file, extractor, real_features, batch_size, device)
        statistics, features = statistics or looked.statistics, looked.features
    if statistics is None:
        if features is None or len(features) < 2:
            raise ValueError(f"{file} holds {', '.join(sorted(names)) or 'nothing'}, but no statistics; {LAYOUTS}")
        statistics = Statistics.of(features)
    if features is not None:
        features = features[evenly_spaced(len(features), real_features)] if real_features else None
    return Reference(statistics, features)


def _look(
    file: Path, extractor: Extractor, real_features: int, batch_size: int, device: torch.device | str
) -> Reference:
    """Return the statistics of the images in a file of ADM."""
    with zipfile.ZipFile(file) as archive, archive.open("arr_0.npy") as content:
        total = _image_shape(file, content)[0]
    builder = ReferenceBuilder(extractor, evenly_spaced(total, real_features))
    with tqdm(total=total, desc=f"reference images ({file.name})", unit="image", leave=False) as bar:
        for images in npz_images(file, batch_size):
            builder.update(images.to(device), range(bar.n, bar.n + len(images)))
            bar.update(len(images))
    return builder.reference()


def _read_pt(file: Path) -> dict[str, Any]:
    """Read arrays of numbers, and no other objects."""
    made = np.empty(0).__reduce__()[0]
    allowed: list[Any] = [np.ndarray, np.dtype, np.dtypes.Float64DType, np.dtypes.Float32DType, made]
    allowed += [(made, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")]
    try:
        with torch.serialization.safe_globals(allowed):
            found = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(f"{file} holds other things than numbers ({str(error).splitlines()[0]}); {LAYOUTS}") from error
    if not isinstance(found, dict) or not {"mu", "sigma"} <= found.keys():
        raise ValueError(f"{file} holds no mu and sigma; {LAYOUTS}")
    return found


def _checked(file: Path, mu: Any, sigma: Any) -> Statistics:
    """Return statistics of arrays mu and sigma."""
    mean, covariance = np.asarray(mu), np.asarray(sigma)
    if (
        mean.ndim != 1
        or covariance.shape != (len(mean), len(mean))
        or mean.dtype.kind != "f"
        or covariance.dtype.kind != "f"
    ):
        raise ValueError(
            f"{file} holds mu {mean.shape} {mean.dtype} and sigma {covariance.shape} {covariance.dtype}, but a mean is (D,) and "
            "a covariance (D, D), of floating-point numbers; make the file anew"
        )
    if not np.allclose(covariance, covariance.T, rtol=1e-3, atol=1e-6 * max(1e-30, float(np.abs(covariance).max()))):
        raise ValueError(f"{file} holds a sigma that is not symmetric, so no covariance; make the file anew")
    try:
        return Statistics(None, torch.from_numpy(mean).double(), torch.from_numpy(covariance).double())
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error


def _features(file: Path, array: np.ndarray) -> Tensor:
    if array.ndim != 2 or array.dtype.kind != "f":
        raise ValueError(
            f"{file} holds feats {array.shape} {array.dtype}, but features are (N, D) of floating-point numbers"
        )
    return torch.from_numpy(array).float()
