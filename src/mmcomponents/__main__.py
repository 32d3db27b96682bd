"""`python -m mmcomponents`: the command."""

import sys

from mmcomponents.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
