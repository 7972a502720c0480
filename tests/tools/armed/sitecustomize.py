"""Python imports this first in worker processes whose PYTHONPATH names its folder: it arms them (see `kills.py`)."""

import pathlib
import sys

sys.path.append(str(pathlib.Path(__file__).parent.parent.parent))
import kills

kills.arm_from_environment()
