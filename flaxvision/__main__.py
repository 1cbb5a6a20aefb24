"""`python -m flaxvision`."""

import sys

from flaxvision.cli.main import main

if __name__ == "__main__":
    sys.exit(main(program="python -m flaxvision"))
