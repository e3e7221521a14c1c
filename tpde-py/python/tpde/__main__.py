"""The ``tpde`` command, as ``python -m tpde`` and as the script of the wheel."""

import sys

from tpde._tpde import cli


def main() -> int:
    """Runs the command and returns its exit code."""
    return cli(["tpde", *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
