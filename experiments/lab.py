"""Does the lab of the documentation: every command of docs/lab.md, in its order, as a student types it.

    python experiments/lab.py

The tables that the runs leave are kept in results/lab; `python experiments/benchmarks readme` writes the page's numbers
from them. Nothing is downloaded. Some two minutes on two cores.
"""

from __future__ import annotations

import argparse
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import RESULTS, listed

from flaxvision.report import markdown_table
from flaxvision.sweep import device, versions

PAGE = Path(__file__).parents[1] / "docs" / "lab.md"
HEADING = """# The lab on learning rates, done

Every command of the lab ([`docs/lab.md`](../../../docs/lab.md)), as `python experiments/lab.py` typed it; the tables of
the runs lie beside this page.
"""


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS / "lab", help="folder of the results")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    text = PAGE.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "lab.toml").write_text(sweep_of(text), encoding="utf-8")
        seconds = [(command, do(command, Path(folder))) for command in commands_of(text)]
        for table in sorted(Path(folder, "runs").glob("*/results.csv")):
            shutil.copy(table, options.out / f"{table.parent.name}.csv")
    rows = [(f"`{command}`", f"{took:.0f}") for command, took in seconds]
    parts = [HEADING, markdown_table(("command", "seconds"), rows) + "\n", f"On {device()}; {listed(versions())}.\n"]
    (options.out / "README.md").write_text("\n".join(parts), encoding="utf-8")


def sweep_of(text: str) -> str:
    """The page's lab.toml."""
    (spec,) = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    return spec


def commands_of(text: str) -> list[str]:
    """The commands that the page has typed, each on a line of its own."""
    return re.findall(r"^    (flaxvision .*?)(?:  +#.*)?$", text, re.MULTILINE)


def do(command: str, folder: Path) -> float:
    """Run a command in a folder, and say how many seconds it took."""
    print(f"$ {command}", flush=True)
    start = time.monotonic()
    subprocess.run([sys.executable, "-m", *shlex.split(command)], cwd=folder, check=True)
    return time.monotonic() - start


if __name__ == "__main__":
    main()
