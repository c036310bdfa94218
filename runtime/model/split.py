"""Where a model is cut in two: the device has both ends of it, the cloud the middle (HAT's U shape).

What does not live here: the loading of a part (loading.py) and what travels between them (runtime/hat/).
"""

from __future__ import annotations

from dataclasses import dataclass

from runtime.errors import SettingError
from runtime.settings import whole


@dataclass(frozen=True, slots=True)
class Split:
    """Embeddings, the first and the last layers, final norm and head are on the device; the layers between in the cloud.

    Raises:
        SettingError: a number is outside its range.
    """

    first: int
    """Layers after the embeddings that the device runs, 0..1024."""
    last: int = 0
    """Layers before the final norm that it runs, 0..1024."""

    def __post_init__(self) -> None:
        whole("first", self.first, 0, 1024)
        whole("last", self.last, 0, 1024)

    def __str__(self) -> str:
        return f"{self.first}:{self.last}"

    @classmethod
    def parse(cls, text: str) -> Split:
        """Read `first` or `first:last`.

        Raises:
            SettingError: it is neither.
        """
        parts = text.split(":")
        if not 1 <= len(parts) <= 2 or not all(part.isdecimal() and len(part) <= 4 for part in parts):
            raise SettingError(f"split={text!r} must be FIRST or FIRST:LAST, the layers that the device runs, such as 2 or 2:1")
        return cls(*map(int, parts))

    def middle(self, layers: int) -> range:
        """Layers of the cloud, of a model of so many.

        Raises:
            SettingError: none is left for it.
        """
        if self.first + self.last >= layers:
            raise SettingError(
                f"split={self} leaves the cloud none of the model's {layers} layers; give the device fewer than {layers}"
            )
        return range(self.first, layers - self.last)

    def ends(self, layers: int) -> tuple[int, ...]:
        """Layers of the device, of a model of so many; see :meth:`middle` for what is raised."""
        middle = self.middle(layers)
        return (*range(middle.start), *range(middle.stop, layers))
