"""How a corpus or a list is offered by `ge2e manifest`: an entry of `KINDS` in the file that reads it.

The command makes parser, help and completion of the entries; it knows no kind by name but its own, `list`.
It must not know how a corpus is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from ge2e_transforms.list_files import ListOptions
from ge2e_transforms.utterance import Utterance

# A flag, or the name of what has none -> what `argparse.ArgumentParser.add_argument` is told of it.
Options = Mapping[str, Mapping[str, Any]]


class CorpusKind(NamedTuple):
    """A kind of corpus or list.

    name: the word behind `ge2e manifest`.
    text: what is read, in a line.
    notes: below the options in `--help`; ends with examples, which a test parses.
    rows: gives the rows; what was given stands in attributes, as argparse names them.
    options: that the kind has, in the order of help: those of all trees or of all lists, and its own.
    """

    name: str
    text: str
    notes: str
    rows: Callable[[Any], Iterator[Utterance]]
    options: Options


OF_TREES: Options = {
    "root": {"metavar": "ROOT", "help": "folder that holds the corpus"},
    "--namespace": {
        "default": "",
        "metavar": "NS",
        "help": "what speaker ids count in; one for all corpora that share their speakers (default: see below)",
    },
}
OF_LISTS: Options = {
    "--root": {
        "default": "",
        "metavar": "FOLDER",
        "help": "where relative paths of the list begin (default: the current folder; for NeMo the list's)",
    },
    # The folders of lists are mostly called 'train' or 'data': equal ids of two corpora would become one speaker.
    "--source": {"required": True, "metavar": "NAME", "help": "name of the corpus"},
    "--namespace": {
        "default": "",
        "metavar": "NS",
        "help": "what speaker ids count in; one for all corpora that share their speakers (default: the source)",
    },
    "--split": {"default": "", "metavar": "NAME", "help": "split of all rows (default: drawn later)"},
}
NO_SPLITS: Options = {"--no_splits": {"action": "store_true", "help": "leave the splits to the pipeline"}}
SOURCE: Options = {"--source": {"default": "", "metavar": "NAME", "help": "name of the corpus (default: ROOT's name)"}}


def list_options(given: Any) -> ListOptions:
    """What a list does not say, from the options of `OF_LISTS`."""
    return ListOptions(given.root, given.source, given.namespace, given.split)
