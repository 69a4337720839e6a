"""Conditioners of parts that were read."""

import pytest
import torch

from ldm.config import build


def conditioner_of(part):
    """Return the conditioner that a part builds and fills; nothing may be missing or left over."""
    made = build(part.node)
    made.load_state_dict(part.weights)
    return made.eval()


def tokens_of(part, captions):
    """Return the tokens that the U-Net gets for captions, to all of which it attends."""
    with torch.no_grad():
        condition = conditioner_of(part)({"caption": list(captions)})
    assert condition.mask is None, "padding is attended to"
    return condition.tokens


def agree(found, expected):
    """Check that hidden states are equal, and that they tell places and captions apart."""
    assert expected.std() > 0.3
    assert (expected[0] - expected[1]).abs().max() > 0.1
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def without(tensors, name):
    return {key: value for key, value in tensors.items() if key != name}


def refused(message):
    return pytest.raises(ValueError, match=message)
