"""Sizes, fields and conditions."""

import pytest
import torch

from ldm.batch import Condition, as_size, batch_size, list_field, tensor_field, whole_geometry


def test_a_field_that_is_missing_or_of_another_kind_is_said():
    fields = {"caption": ["a", "b"], "label": torch.tensor([1, 2])}
    assert batch_size(fields) == 2
    assert list_field(fields, "caption") == ["a", "b"]
    assert tensor_field(fields, "label").tolist() == [1, 2]
    with pytest.raises(
        ValueError, match="the field depth is needed, but the fields that are there are: caption, label"
    ):
        tensor_field(fields, "depth")
    with pytest.raises(ValueError, match="the field caption is a tensor"):
        tensor_field(fields, "caption")
    with pytest.raises(ValueError, match="the field label is a list, one value for each image; got a Tensor"):
        list_field(fields, "label")
    with pytest.raises(ValueError, match="there are no fields"):
        batch_size({})


def test_the_geometry_of_whole_images():
    assert whole_geometry([32, 48], 2).tolist() == [[32, 48, 0, 0, 32, 48]] * 2
    assert as_size(8) == as_size([8, 8]) == (8, 8)


def test_conditions_of_different_kinds_are_not_mixed():
    tokens, vector = Condition(tokens=torch.zeros(2, 3, 4)), Condition(vector=torch.zeros(2, 4))
    for mix in (lambda: Condition.cat([tokens, vector]), lambda: tokens.where(torch.tensor([True, False]), vector)):
        with pytest.raises(ValueError, match="conditions of different kinds"):
            mix()
