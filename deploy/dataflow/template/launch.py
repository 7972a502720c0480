"""What a Flex Template starts: `ge2e run` with the parameters of the template.

The service gives parameters and options of the job alike, as `--name=value`; `ge2e run` wants Beam's after `--`. It
must not know what a parameter means: the flags of `ge2e run` and the options of Beam are asked.
    launch.py --manifest=gs://B/m.csv --output=gs://B/out --overwrite=true --set='n_mels=64;f_max_hz=7600' \
        --runner=DataflowRunner --project=P --region=R --template_location=gs://B/template_launches/1/job_object
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from pipeline import flags, options
from pipeline.__main__ import main

# Between the values of a parameter that may be given more than once; the console and gcloud split at commas.
SEPARATOR = ";"


def arguments(given: Sequence[str]) -> list[str]:
    """Arguments of `ge2e run`, from `--name=value` for each parameter of the template and each option of the job."""
    parser = argparse.ArgumentParser(add_help=False)
    flags.add_run(parser)
    own: list[str] = []
    beam: list[str] = []
    for argument in given:
        name, _, value = argument.partition("=")
        action = parser._option_string_actions.get(name)
        if action is None:
            beam.append(argument)
        elif action.nargs == 0:  # a switch; any other word than these reaches argparse, which refuses it
            own += {"true": [name], "false": [], "": []}.get(value.lower(), [argument])
        elif isinstance(action, argparse._AppendAction):
            own += [f"{name}={part}" for part in value.split(SEPARATOR) if part]
        elif value:  # the console sends parameters that were left empty
            own.append(argument)
    unknown = options.unknown_flags(beam)
    if unknown:  # of the service, which may be newer than this Beam; the template's own it has checked itself
        logging.getLogger(__name__).warning("left out, as Beam does not know them: %s", " ".join(unknown))
    return ["run", *own, "--", *(argument for argument in beam if argument not in unknown)]


if __name__ == "__main__":
    sys.exit(main(arguments(sys.argv[1:])))
