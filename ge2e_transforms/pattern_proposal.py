"""A pattern for paths that no pattern fitted: which folder is likely the speaker, told from some of the paths.

It sees text alone, and must not look at files.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

_SUBSET = re.compile(r"(?:train|dev|valid|val|test|eval)(?:[-_].*)?", re.IGNORECASE)
_SEPARATOR = re.compile(r"[-_]")
# What has a meaning of its own in a pattern.
_SPECIAL = re.compile(r"[{}*]")


def proposal(paths: Sequence[str]) -> str:
    """A pattern of `corpora.pattern` for the most frequent depth and ending among some paths; '' if there is none.

    Folders that are the same for all stand as they are, up to the first that is not; folders named like subsets become
    {subset}; of the others the last two are {speaker}/{session}, or one alone is {speaker}. Without folders the speaker
    is the name up to the first '-' or '_'.

    >>> proposal(["wav/anna/1/a.wav", "wav/bert/1/b.wav"])
    'wav/{speaker}/{session}/{utterance}.wav'
    """
    forms = Counter((path.count("/"), _ending(path)) for path in paths)
    if not forms:
        return ""
    (depth, ending), _ = forms.most_common(1)[0]
    alike = [path.split("/") for path in paths if (path.count("/"), _ending(path)) == (depth, ending)]
    folders = [list(level) for level in zip(*alike, strict=True)][:-1]
    if folders:
        return "/".join([*_folders(folders), "{utterance}" + ending])
    separators = [found[0] for names in alike if (found := _SEPARATOR.search(names[0]))]
    if len(separators) < len(alike):
        return "{speaker}" + ending
    return f"{{speaker}}{Counter(separators).most_common(1)[0][0]}{{utterance}}{ending}"


def _ending(path: str) -> str:
    """From the last '.' of the name on; '' where it has a meaning of its own, or there is none."""
    name = path.rpartition("/")[2]
    ending = name[name.rfind(".") :] if "." in name else ""
    return "*" if _SPECIAL.search(ending) else ending


def _folders(levels: list[list[str]]) -> list[str]:
    fixed = 0
    while fixed < len(levels) - 1 and len(set(levels[fixed])) == 1 and not _SUBSET.fullmatch(levels[fixed][0]):
        fixed += 1
    # Of one speaker all folders are the same.
    if len(set(levels[-1])) == 1 and all(len(set(level)) == 1 for level in levels):
        fixed = max(0, min(fixed, len(levels) - 2))
    names = ["{any}" if _SPECIAL.search(level[0]) else level[0] for level in levels[:fixed]]
    rest = levels[fixed:]
    subsets = [bool(len(rest) > 1 and all(map(_SUBSET.fullmatch, level))) for level in rest]
    subset = subsets.index(True) if any(subsets) else None
    people = [place for place in range(len(rest)) if place != subset]
    fields = dict.fromkeys(people[:-2], "{any}")
    fields |= dict(zip(people[-2:], ["{speaker}", "{session}"], strict=False))
    if subset is not None:
        fields[subset] = "{subset}"
    return names + [fields[place] for place in range(len(rest))]
