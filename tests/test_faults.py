"""The table of faults names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TABLE = Path(__file__).parents[1] / "experiments" / "results" / "faults" / "README.md"
ROWS = [line.strip("| \n").split(" | ") for line in TABLE.read_text(encoding="utf-8").splitlines() if "::" in line]


def test_there_are_enough():
    assert len(ROWS) >= 40
    assert f"\n{len(ROWS)} faults;" in TABLE.read_text(encoding="utf-8")
    assert {len(row) for row in ROWS} == {5}
    assert len({row[0] for row in ROWS}) == len(ROWS)


@pytest.mark.parametrize("named", sorted({row[-1].strip("`").partition("[")[0] for row in ROWS}))
def test_each_is_a_test(named):
    file, _, function = named.partition("::")
    assert re.search(rf"^def {function}\(", (Path(__file__).parent / file).read_text(encoding="utf-8"), re.MULTILINE)
