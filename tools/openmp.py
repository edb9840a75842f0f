"""Let OpenMP's threads sleep while they wait, unless a GPU does the work or the user decided.

Torch's threads spin for each other. Beside another job on the same cores, each waits for one that
is not running, and a training step takes ten times as long. OpenMP reads its environment when
torch is loaded, so scripts import this module before anything else.
"""

import glob
import os

VARIABLES = ('OMP_WAIT_POLICY', 'GOMP_SPINCOUNT', 'KMP_BLOCKTIME')

if not any(name in os.environ for name in VARIABLES) and not glob.glob('/dev/nvidia[0-9]*'):
    os.environ['OMP_WAIT_POLICY'] = 'PASSIVE'
