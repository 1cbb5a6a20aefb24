"""`python -m flaxvision.sweep`, which is `flaxvision sweep`; followed by the word rerun it is `flaxvision rerun`."""

import sys
from collections.abc import Sequence

from flaxvision.cli.main import enter, typed

PROGRAM = "python -m flaxvision.sweep"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line, see `flaxvision.cli.main.main`."""
    given, own_process = typed(arguments)
    if given[:1] == ["rerun"]:
        return enter("rerun", f"{PROGRAM} rerun", given[1:], own_process=own_process)
    return enter("sweep", PROGRAM, given, own_process=own_process)


if __name__ == "__main__":
    sys.exit(main())
