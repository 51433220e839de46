"""The page on what is promised: every test that it names is there."""

import re
from pathlib import Path

TESTS = Path(__file__).parent


def test_every_promise_names_tests_that_there_are() -> None:
    page = (TESTS.parent / "docs" / "reliability.md").read_text()
    named = set(re.findall(r"`(test_\w+)`", page))
    there = {name for file in TESTS.glob("test_*.py")
             for name in re.findall(r"^def (test_\w+)", file.read_text(), re.M)}  # fmt: skip
    assert len(named) > 40
    assert named <= there
