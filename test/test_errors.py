"""An error is one line, whatever it quotes."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dust3r_ros.errors import Dust3rRosError, InputError


@given(st.text(max_size=200), st.integers(0, 50))
def test_a_message_is_one_line_of_bounded_length(quoted: str, times: int) -> None:
    error = InputError(f"topic '{quoted * times}' is wrong; it must be a name")
    assert len(str(error).splitlines()) == 1 and len(str(error)) <= 2000
    assert str(error).startswith("topic '") and str(error).endswith("it must be a name")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


@pytest.mark.parametrize("message", ["image 'a  b.png' is truncated", "lens of 'Münster/küche' → x"])
def test_an_ordinary_message_stays_as_it_is(message: str) -> None:
    assert str(Dust3rRosError(message)) == message
