"""`ge2e add`: more manifests into a dataset that is there.

Counts are of manifest rows. It must not know how a dataset grows: `grow` and the job do.
"""

from __future__ import annotations

import argparse

from pipeline.commands import grow

_EXAMPLES = """examples:
  ge2e add --manifest new.csv features
  ge2e add --manifest gs://bucket/new.csv gs://bucket/features -- --runner=DataflowRunner ...

Shards that are there stay byte for byte; speakers that are there keep their label and split; utterances that are there
are left as they are. All after -- goes to Beam as it is. Exit status 0 also if the manifests hold nothing new.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    grow.add_arguments(parser, "add", _EXAMPLES)
