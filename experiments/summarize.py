"""All reports at a glance: writes experiments/results/README.md from every experiment's results.json.

python experiments/summarize.py
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from common import RESULTS, claims_markdown
from rows import Row, rows_markdown

REPORTS = {
    "A": "One CNN in two frameworks (MNIST)",
    "B": "MNIST classifier, ablations, VGG-19 on CIFAR-10",
    "C": "Two clusters, then digits",
    "D": "47 handwritten characters",
    "E": "Fashion-MNIST: learning rate, width and depth, gradients",
}
DATA = """
MNIST and Fashion-MNIST are the original files, byte for byte. **EMNIST Balanced** is a subset: 800 training and 100
test images of each of the 47 classes in place of 2,400 and 400, so report D is judged against plain PyTorch on the
same data, not against its published numbers. In **CIFAR-10**, 97 of 60,000 images were decoded from JPEG copies. Report
C1's points and report D's pretrained encoder are not published: ours are drawn anew and pretrained on MNIST.
"""


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of results")
    folder = parser.parse_args(arguments).results
    records = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*/results.json"))]
    records = [record for record in records if record.get("report", "")[:1] in REPORTS]
    records.sort(key=lambda record: (record["report"], record["name"]))
    judged = [row for record in records for row in record["rows"] if row["verdict"]]
    counts = [[row["verdict"] for row in judged if (row["tolerance"] == 0) == exact] for exact in (True, False)]
    exact, measured = (f"{verdicts.count('within')} of {len(verdicts)}" for verdicts in counts)
    parts = [
        "# The five reports, reproduced\n",
        f"{exact} parameter counts are equal, and {measured} measured numbers that have a tolerance are within it. "
        "Written by `python experiments/summarize.py` from each experiment's results.json: every row with a published "
        "value or a verdict, and every claim. Follow a title for the figures, the other numbers and the evidence. From "
        "a published range, a difference counts from the nearer end.\n",
        DATA.strip() + "\n",
    ]
    for letter, title in REPORTS.items():
        parts.append(f"## {letter}. {title}\n")
        for record in (record for record in records if record["report"].startswith(letter)):
            parts.append(f"### [{record['title']}]({record['name']}/README.md)\n")
            rows = [Row.of(row) for row in record["rows"]]
            compared = [row for row in rows if row.verdict or row.from_published is not None]
            if compared:
                parts.append(rows_markdown(compared))
            if others := len(rows) - len(compared):
                parts.append(f"And {others} numbers that the report does not print.\n")
            if record["claims"]:
                parts.append(claims_markdown(record["claims"]))
    (folder / "README.md").write_text("\n".join(parts), encoding="utf-8")


if __name__ == "__main__":
    main()
