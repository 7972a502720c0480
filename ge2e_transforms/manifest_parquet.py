"""Manifests in Parquet as columns of plain values, some thousand rows at a time; rows that repeat a text share it.

It must not know which columns a manifest has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO, TypeAlias

from ge2e_transforms.errors import ManifestError
from ge2e_transforms.utterance import shown

# What is of all columns, and one of what is absent, those that are wanted in their order.
Pick: TypeAlias = Callable[[Sequence[Any]], Sequence[Any]]
# Rows that are read at once.
_ROWS = 4096


def parquet_columns(
    stream: BinaryIO, manifest: str, needed: Callable[[tuple[str, ...]], Pick]
) -> Iterator[Sequence[Sequence[Any]]]:
    """The values of the wanted columns of some rows, then of the next ones; '' in those that are absent.

    Args:
        stream: the file, seekable.
        manifest: what messages call it.
        needed: from the names of all columns to what picks the wanted ones; it may raise.

    Raises:
        ManifestError: the file is damaged, or a wanted column holds neither text nor numbers.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(stream)
        names = file.schema_arrow.names
        pick = needed(tuple(names))
        wanted = set(pick([*names, ""])) - {""}
        for field in file.schema_arrow:
            if field.name in wanted and not _is_plain(field.type):
                raise ManifestError(
                    f"{manifest}: the column {field.name} is of type {shown(str(field.type))}: expected text or numbers"
                )
        # A text that is stored once for many rows stays one.
        file = pq.ParquetFile(stream, metadata=file.metadata, read_dictionary=sorted(wanted))
        for batch in file.iter_batches(batch_size=_ROWS, columns=[name for name in names if name in wanted]):
            columns = {name: _values(batch.column(name)) for name in batch.schema.names}
            yield pick([*map(columns.get, names), [""] * batch.num_rows])
    except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk's or the network's, maybe gone when tried again; Arrow's own have no number
        raise ManifestError(
            f"{manifest}: damaged Parquet ({shown(str(error))}): expected a whole Parquet file; write it again"
        ) from error


def _is_plain(kind: Any) -> bool:
    """Whether a column of an Arrow type holds one text or number a row; any other may be of any size, or unreadable."""
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return not (pa.types.is_nested(kind) or pa.types.is_temporal(kind) or isinstance(kind, pa.BaseExtensionType))


def _values(column: Any) -> list[Any]:
    import pyarrow as pa

    if not isinstance(column, pa.DictionaryArray):
        return list(column.to_pylist())
    values = column.dictionary.to_pylist()
    return [None if place is None else values[place] for place in column.indices.to_pylist()]
