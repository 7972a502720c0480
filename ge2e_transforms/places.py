"""Which places a manifest may name: a list of relative paths stays in its folder, and few kinds of URL are opened.

A manifest may come from elsewhere, with the audio that it lists. Its paths then lead to files below it, and one that
leads out of its folder is a fault, or an attempt to have a file of this machine read. A list that begins with an
absolute path or a URL is made for these very places, and is taken as it is. It looks at names alone, and must not know
whether anything is there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from ge2e_transforms.errors import DataError, LedgerRow, OutsideError, SchemeError
from ge2e_transforms.stores import SCHEMES
from ge2e_transforms.utterance import Utterance, is_url, leads_out, ledger_row, shown


def permitted(
    rows: Iterable[Utterance | LedgerRow], allow_outside: bool = False, allow_schemes: Sequence[str] = ()
) -> Iterator[Utterance | LedgerRow]:
    """The rows of one manifest in their order, those that may not be opened as ledger rows.

    Args:
        rows: of one manifest, as `manifest.read_rows` gives them.
        allow_outside: rows of a manifest with relative paths may lead out of its folder. A manifest is one if its
            first row that can be used and has an allowed scheme has a relative path.
        allow_schemes: of URLs that are opened besides those of `stores.SCHEMES`.
    """
    stays: bool | None = False if allow_outside else None
    for row in rows:
        if isinstance(row, LedgerRow):
            yield row
            continue
        # Nearly every row: no URL, and known not to lead out.
        if stays is not None and "://" not in row.audio_path and not (stays and leads_out(row.audio_path)):
            yield row
            continue
        try:
            check_scheme(row.audio_path, allow_schemes)
            if stays is None:
                stays = not (row.audio_path.startswith("/") or is_url(row.audio_path))
            if stays and leads_out(row.audio_path):
                raise OutsideError(
                    f"audio_path={shown(row.audio_path)} leads out of the manifest's folder, unlike those before: "
                    "expected a relative path without a '..' that leaves it; --allow_outside takes it"
                )
        except DataError as error:
            yield ledger_row(row, error)
        else:
            yield row


def check_scheme(location: str, allow_schemes: Sequence[str] = ()) -> None:
    """Refuses a URL that is not to be opened; a path is none.

    Raises:
        SchemeError: its scheme is neither of `stores.SCHEMES` nor one of `allow_schemes`.
    """
    if not is_url(location):
        return
    scheme = location.partition("://")[0]
    if scheme not in SCHEMES and scheme not in allow_schemes:
        allowed = " and ".join(f"{name}://" for name in (*SCHEMES, *allow_schemes))
        raise SchemeError(
            f"{shown(location)}: only {allowed} are opened; --allow_scheme {scheme} adds {scheme}://, if Apache Beam "
            "reads from there"
        )
