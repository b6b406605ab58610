"""`python -m nano_llada` is `nano-llada`."""

import sys

from nano_llada.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
