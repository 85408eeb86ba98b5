"""`python -m vggnet`."""

import os
import sys
from contextlib import suppress

from vggnet.cli import main

if __name__ == "__main__":
    code = main()
    if "TORCHELASTIC_RUN_ID" in os.environ:
        # A thread that PyTorch leaves can abort a process that takes itself apart ("terminate
        # called without an active exception"), and torchrun would call a finished run a failed one.
        for stream in filter(None, (sys.stdout, sys.stderr)):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)
    sys.exit(code)
