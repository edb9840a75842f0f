"""``python -m mmrest.check_env``: the command ``mmrest check`` under its first name."""

import sys

from .cli.check import main

if __name__ == '__main__':
    sys.exit(main())
