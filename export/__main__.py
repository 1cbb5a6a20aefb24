"""`python -m export`, which is `flaxvision export`."""

import sys
from collections.abc import Sequence

from flaxvision.cli.main import enter, typed


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line, see `flaxvision.cli.main.main`."""
    given, own_process = typed(arguments)
    return enter("export", "python -m export", given, own_process=own_process)


if __name__ == "__main__":
    sys.exit(main())
