"""What the documents on faults and on determinism say is shown by tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT, TESTS = Path(__file__).parents[1], Path(__file__).parent
TABLE = ROOT / "experiments" / "results" / "faults" / "README.md"
ROWS = [line.strip("| \n").split(" | ") for line in TABLE.read_text(encoding="utf-8").splitlines() if "::" in line]
NAMED = {
    document.name: sorted(set(re.findall(r"`([\w/]+\.py)::(\w+)", document.read_text(encoding="utf-8"))))
    for document in (TABLE, ROOT / "docs" / "determinism.md")
}


def test_there_are_enough():
    assert len(ROWS) >= 40
    assert f"\n{len(ROWS)} faults;" in TABLE.read_text(encoding="utf-8")
    assert {len(row) for row in ROWS} == {5}
    assert all(re.match(r"`[\w/]+\.py::\w+", row[-1]) for row in ROWS)
    assert len({row[0] for row in ROWS}) == len(ROWS)


@pytest.mark.parametrize("document", NAMED)
def test_each_is_a_test(document):
    assert len(NAMED[document]) > 20
    for file, function in NAMED[document]:
        assert re.search(rf"^def {function}\(", (TESTS / file).read_text(encoding="utf-8"), re.MULTILINE), function
