"""`python -m flaxvision.sweep`."""

import sys

from flaxvision.sweep.cli import main

if __name__ == "__main__":
    sys.exit(main())
