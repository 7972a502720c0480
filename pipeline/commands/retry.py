"""`ge2e retry`: rows that were rejected, read again after their files were mended.

Counts are of ledger rows. It must not know which rows are read again: the plan of the job says it.
"""

from __future__ import annotations

import argparse

from pipeline.commands import grow

_EXAMPLES = """examples:
  ge2e retry features
  ge2e retry gs://bucket/features -- --runner=DataflowRunner ...

Rows that were rejected for their audio (missing, corrupt, ...) are read again where their manifest has them. What can
be written now is added; the others stay in the ledger. Rows whose manifest was changed meanwhile stay there too:
`ge2e add` takes the changed manifest. All after -- goes to Beam as it is. Exit status 0 also if nothing could be read
this time either.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    grow.add_arguments(parser, "retry", _EXAMPLES)
