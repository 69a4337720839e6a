"""Numbers of torch-fidelity 0.4 on seeded features, kept in torch_fidelity.json.

    python -m tests.metric.torch_fidelity_numbers

makes them anew where torch-fidelity is installed. It imports torchvision, whose stand-ins below are enough for what is used here.
"""

import json
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock, patch

import numpy as np
import torch

FILE = Path(__file__).with_name("torch_fidelity.json")
WIDTH, CLASSES = 16, 7
SUBSETS, SUBSET_SIZE = 20, 50


def features():
    """Return features of 120 generated and of 110 real images, and the weights of a classifier."""
    rng = np.random.RandomState(7)
    generated = rng.randn(120, WIDTH) * np.linspace(0.6, 1.2, WIDTH) + 0.2
    real = rng.randn(110, WIDTH) * np.linspace(1.3, 0.8, WIDTH)
    weight = rng.randn(CLASSES, WIDTH)
    return [torch.from_numpy(part.astype(np.float32)) for part in (generated, real, weight)]


def images():
    """Return 8-bit images `(2, 3, H, W)` to be resized, of two sizes."""
    rng = np.random.RandomState(8)
    return [torch.from_numpy(rng.randint(0, 256, (2, 3, *size)).astype(np.uint8)) for size in ((20, 33), (310, 305))]


def image():
    """Return an 8-bit image `(1, 3, 299, 299)`, which no way to resize changes."""
    return torch.from_numpy(np.random.RandomState(10).randint(0, 256, (1, 3, 299, 299)).astype(np.uint8))


def inception_weights(network):
    """Return seeded weights for a network with the names and shapes of torch-fidelity's Inception v3."""
    rng = np.random.RandomState(9)
    found = {}
    for name, value in sorted(network.state_dict().items()):
        if name.endswith("num_batches_tracked"):
            found[name] = value
            continue
        if value.ndim > 1:
            drawn = rng.randn(*value.shape) * (2 / value[0].numel()) ** 0.5
        elif name.endswith(("running_var", "bn.weight")):
            drawn = 0.5 + rng.rand(*value.shape)
        else:
            drawn = 0.1 * rng.randn(*value.shape)
        found[name] = torch.from_numpy(drawn.astype(np.float32))
    return found


def computed():
    """Return the numbers, as torch-fidelity computes them."""
    if find_spec("torchvision") is None:
        for name in ("", ".transforms", ".transforms.functional", ".models"):
            sys.modules[f"torchvision{name}"] = MagicMock()
        sys.modules["torchvision.datasets"] = SimpleNamespace(CIFAR10=object, CIFAR100=object, STL10=object)
        sys.modules["torchvision"].datasets = sys.modules["torchvision.datasets"]
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
    from torch_fidelity.metric_isc import isc_features_to_metric
    from torch_fidelity.metric_kid import kid_features_to_metric
    from torch_fidelity.metric_prc import prc_features_to_metric

    generated, real, weight = (part.double() for part in features())
    statistics = [fid_features_to_statistics(part) for part in (generated, real)]
    found = fid_statistics_to_metric(*statistics, verbose=False)
    found |= kid_features_to_metric(generated, real, kid_subsets=SUBSETS, kid_subset_size=SUBSET_SIZE, verbose=False)
    found |= isc_features_to_metric(generated @ weight.T)
    found |= prc_features_to_metric(generated, real, verbose=False)
    resized = [
        interpolate_bilinear_2d_like_tensorflow1x(part.float(), size=(299, 299), align_corners=False)
        for part in images()
    ]
    found["resized"] = [part[:, :, ::37, ::41].flatten().tolist() for part in resized]
    with patch.object(FeatureExtractorInceptionV3, "load_state_dict"), patch("torch.load"):
        network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048", "logits_unbiased"], "none")
    network.load_state_dict(inception_weights(network))
    pooled, logits = network(images()[0])
    found |= {"features": pooled[:, ::32].tolist(), "logits": logits[:, ::16].tolist()}
    network.double().feature_extractor_internal_dtype = torch.float64  # its own option "float64" leaves it in float32
    maps = []
    network.Mixed_6d.branch1x1.register_forward_hook(lambda module, inputs, output: maps.append(output))
    pooled, logits = network(image())
    exact = {"features": pooled[:, ::32], "logits": logits[:, ::16], "maps": maps[0][:, :7, ::8, ::8]}
    return {**found, "exact": {name: values.tolist() for name, values in exact.items()}}


if __name__ == "__main__":
    FILE.write_text(json.dumps(computed(), indent=1) + "\n")
