"""What commands print with: names of a dataset are shown as text, whatever is in them.

It must not know what is printed.
"""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.text import Text

from ge2e_transforms.errors import visible


class Terminal(Console):
    """A console without markup, emoji and highlighting, for which control characters and the like are escaped.

    All text passes here on its way, that of tables too; a line end within it is escaped like all else.
    """

    def __init__(self) -> None:
        super().__init__(highlight=False, markup=False, emoji=False, soft_wrap=True)

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(visible(text), **options)
