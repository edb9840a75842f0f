"""Limit how long OpenMP's threads spin while they wait, unless a GPU works or the user decided.

Torch's threads spin for each other. Beside another job on the same cores, each may spin for one
that is not running, and takes its core from it. Threads that sleep at once cost time on an idle
machine, because waking them takes longer than many operations do; so these spin, but briefly.
OpenMP reads its environment when torch is loaded, so scripts import this module first.
"""

import glob
import os

VARIABLES = ('OMP_WAIT_POLICY', 'GOMP_SPINCOUNT')

if not any(name in os.environ for name in VARIABLES) and not glob.glob('/dev/nvidia[0-9]*'):
    os.environ['GOMP_SPINCOUNT'] = '10000'
