"""`ge2e download`: a corpus that may be had freely, from where it is published.

Sizes are bytes. It must not know how an archive is fetched: `pipeline.download` does.
"""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from pipeline import download

_EXAMPLES = """\
examples:
  ge2e download librispeech --subset dev-clean -o /corpora
  ge2e download librispeech --subset train-clean-100 --subset test-clean -o /corpora --keep
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The parser of each corpus."""
    corpora = parser.add_subparsers(title="corpora", required=True, metavar="CORPUS")
    text = "Subsets of LibriSpeech (CC BY 4.0): fetched, checked by md5 and unpacked. What broke off is resumed."
    formatter = argparse.RawDescriptionHelpFormatter
    libri = corpora.add_parser(
        "librispeech", help="LibriSpeech, by subset", description=text, epilog=_EXAMPLES, formatter_class=formatter
    )
    names = sorted(download.LIBRISPEECH_MD5)
    subset = f"one of {', '.join(names)}; may be repeated"
    libri.add_argument("--subset", action="append", required=True, choices=names, metavar="NAME", help=subset)
    libri.add_argument("-o", "--output", required=True, type=Path, metavar="FOLDER", help="where LibriSpeech is made")
    url = "folder of the archives, such as that of a mirror (default: %(default)s)"
    libri.add_argument("--url", default=download.LIBRISPEECH_URL, metavar="BASE", help=url)
    libri.add_argument("--keep", action="store_true", help="leave the archives there")
    libri.set_defaults(command=librispeech)


def librispeech(args: argparse.Namespace) -> int:
    """Fetches the subsets one after the other, and says what comes next."""
    for subset in dict.fromkeys(args.subset):
        print(f"{download.librispeech(subset, args.output, args.url, args.keep)}: complete")
    root = shlex.quote(str(args.output / "LibriSpeech"))
    print(f"next: ge2e manifest librispeech {root} -o librispeech.csv")
    return 0
