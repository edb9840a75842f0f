"""``python -m mmrest.check_env``, an alias of the command ``mmrest check``."""

import sys

from .cli.check import main

if __name__ == '__main__':
    sys.exit(main())
