"""`python -m vggnet`."""

import sys

from vggnet.cli import main

if __name__ == "__main__":
    sys.exit(main())
