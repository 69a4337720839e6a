import torch

from ldm.files.digest import weights_hash


def test_names_of_weights_stay_as_caches_and_results_hold_them():
    weights = {"a": torch.arange(3.0), "b": torch.ones(2, 2, dtype=torch.bfloat16)}
    assert weights_hash(weights.items(), "kind") == "2d315368c3314e3b"
    assert weights_hash(reversed(weights.items())) == "57107b3be3be3524"
    assert weights_hash([*weights.items(), *weights.items()]) != weights_hash(weights.items())
