"""What commands need beside the base of the package: an extra that is missing is told by its name.

It must not know what a command does with it.
"""

from __future__ import annotations

from ge2e_transforms.errors import MissingExtraError


def require_beam(what: str) -> None:
    """For the first line of what imports Beam.

    Raises:
        MissingExtraError: it is not installed; `what` needs it.
    """
    try:
        import apache_beam  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"Apache Beam, which {what},", "beam") from error
