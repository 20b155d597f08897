"""Stamps survive text to the nanosecond."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dust3r_ros.io.stamps import stamp_from_text, stamp_to_text


@given(st.integers(0, 2**63 - 1))
def test_round_trip_is_exact(stamp_ns: int) -> None:
    assert stamp_from_text(stamp_to_text(stamp_ns)) == stamp_ns


def test_text_is_seconds() -> None:
    assert stamp_from_text("1341841278.842700") == 1341841278_842700000
    assert stamp_from_text("0.3333333339") == 333333333
    assert stamp_from_text("7") == 7_000_000_000
    assert stamp_from_text("1.5e3") == 1_500_000_000_000
    assert stamp_to_text(1_000_000_001) == "1.000000001"
    assert stamp_to_text(-1_500_000_000) == "-1.500000000"


@pytest.mark.parametrize("text", ["", "abc", "nan", "inf", "-1", "1e300", "1.2.3", "rgb/000.png"])
def test_what_is_no_stamp_is_none(text: str) -> None:
    assert stamp_from_text(text) is None
