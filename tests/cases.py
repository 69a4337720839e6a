"""Cases of a test, of which some stand for all among the fast tests."""

import pytest


def mostly_slow(cases, fast):
    """Return cases for `pytest.mark.parametrize`, marked slow but for those of which `fast` is true.

    Args:
        cases: Each a value, or a tuple with one value for each argument of the test.
        fast: A case, or the first value of one -> whether it is among the fast tests; or these cases themselves.
    """
    is_fast = fast if callable(fast) else lambda case: case in fast
    found = []
    for case in cases:
        values = case if isinstance(case, tuple) else (case,)
        found.append(pytest.param(*values, marks=() if is_fast(values[0]) else pytest.mark.slow))
    return found
