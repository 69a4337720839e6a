"""Rules for the values of options."""

import math

import pytest

from ldm.options.rule import COUNT, FLAG, FRACTION, POSITIVE, SEED, OneOf, Optional, Real, Whole, check, check_all


@pytest.mark.parametrize(
    ("rule", "allowed", "refused"),
    [
        (COUNT, [1, 2**62], [0, -1, 1.0, 1.5, True, "1", None, math.nan]),
        (Whole(2, 4), [2, 4], [1, 5]),
        (SEED, [0, 2**63 - 1], [-1, 2**63, True, "abc", 1.5]),
        (FRACTION, [0, 0.5, 1, 1.0], [-1e-9, 1.1, math.nan, math.inf, True, "half", None]),
        (POSITIVE, [1e-9, 3], [0, -1, math.inf]),
        (Real(0, 1, below=True), [0, 0.99], [1.0]),
        (FLAG, [True, False], [0, 1, "true", None]),
        (OneOf(("jpg", None)), ["jpg", None], ["png", ""]),
        (Optional(COUNT), [None, 1], [0, "null"]),
    ],
    ids=str,
)
def test_a_rule_allows_its_values_and_no_others(rule, allowed, refused):
    assert [value for value in allowed if not rule.allows(value)] == []
    assert [value for value in refused if rule.allows(value)] == []


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"n": 0}, r"n=0 cannot be; give a whole number, at least 1$"),
        ({"n": 2**63}, r"n=9223372036854775808 cannot be; give a whole number, at least 1, below 2\^63$"),
        ({"task": {"diffusion": {"steps": True}}}, r"task\.diffusion\.steps=true cannot be; give a whole number"),
        (
            {"task": {"diffusion": {"lr": math.nan}}},
            r"task\.diffusion\.lr=nan cannot be; give a finite number, above 0",
        ),
        ({"task": {"a": {"steps": None}}}, r"task\.a\.steps=null cannot be"),
    ],
)
def test_the_error_names_option_value_and_range(config, message):
    with pytest.raises(ValueError, match=message):
        check_all(config, {"n": COUNT, "task.*.steps": COUNT, "task.*.lr": POSITIVE})


def test_options_without_a_rule_are_free():
    check_all({"other": "anything", "task": {"diffusion": {"steps": 3}}}, {"task.*.steps": COUNT})


def test_null_says_what_it_means():
    with pytest.raises(ValueError, match=r"clip=-1 cannot be; give a finite number, above 0, or null \(no clipping\)"):
        check("clip", -1, Optional(POSITIVE, "no clipping"))
