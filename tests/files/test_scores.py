"""Scores in JSON: what another program reads has numbers and null alone."""

import json
import math

import pytest

from ldm.files.scores import read_scores, to_json_numbers


def test_what_is_not_finite_is_null_in_the_file_and_nan_when_it_is_read():
    scores = {"a": 0.25, "b": math.nan, "c": -math.inf, "steps": 20, "d": None}
    text = json.dumps(to_json_numbers(scores), allow_nan=False)
    assert json.loads(text) == {"a": 0.25, "b": None, "c": None, "steps": 20, "d": None}
    found = read_scores(text)
    assert (found["a"], found["steps"]) == (0.25, 20)
    assert all(math.isnan(found[name]) for name in "bcd")


def test_what_is_no_json_is_an_error():
    with pytest.raises(ValueError, match="Expecting"):
        read_scores("not json")
