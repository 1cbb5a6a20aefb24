"""`python -m flaxvision.data`."""

import sys

from flaxvision.data.cli import main

if __name__ == "__main__":
    sys.exit(main())
