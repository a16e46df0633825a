"""torch's ``torchrun``, which ends at Ctrl-C and SIGTERM without a traceback, with the exit code 130 or 143."""

from __future__ import annotations

import sys

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.run import main

if __name__ == '__main__':
    try:
        main()
    except SignalException as error:
        sys.exit(128 + error.sigval)
