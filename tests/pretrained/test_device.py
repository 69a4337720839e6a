"""The device that a program computes on."""

import pytest
import torch

from ldm.pretrained.device import find_device


def test_the_gpu_of_a_process_is_taken_where_there_is_one(monkeypatch):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert find_device(None) == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "zeros", lambda count, device: torch.ones(count))
    assert find_device(None) == torch.device("cuda:0")
    assert find_device(None, 3) == torch.device("cuda:3")
    assert find_device("cpu", 3) == torch.device("cpu")
    monkeypatch.setenv("LOCAL_RANK", "2")
    assert find_device(None) == torch.device("cuda:2")


@pytest.mark.parametrize("name", ["cuda:99", "meta", "gpu"])
def test_a_device_that_is_not_there_is_said(name):
    with pytest.raises(ValueError, match=f"there is no device={name} here .*; say device=cpu"):
        find_device(name)
