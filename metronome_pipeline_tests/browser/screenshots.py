"""Screenshots for README: small files of what a page shows."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

if TYPE_CHECKING:
    from playwright.sync_api import FloatRect, Page

_LARGEST = 250_000
_MARGIN = 24.0


@dataclass(frozen=True)
class Shoot:
    """Takes screenshots of a page into a folder."""

    page: "Page"
    folder: Path

    def __call__(self, name: str, around: str | None = None) -> None:
        """Of all that is in the window, or only of what lies around the elements that a selector finds."""
        path = self.folder / f"{name}.png"
        clip = None if around is None else self._box(around)
        self.page.screenshot(path=path, animations="disabled", clip=clip)
        if path.stat().st_size >= _LARGEST:
            # Only then: small dots of a rare colour take on that of their neighbours.
            with Image.open(path) as whole:
                whole.convert("RGB").quantize(256).save(path, optimize=True)
        assert path.stat().st_size < _LARGEST, f"{path} is too large for README"

    def _box(self, selector: str) -> "FloatRect":
        found = [box for each in self.page.locator(selector).all() if (box := each.bounding_box())]
        left, top = min(box["x"] for box in found) - _MARGIN, min(box["y"] for box in found) - _MARGIN
        right = max(box["x"] + box["width"] for box in found) + _MARGIN
        bottom = max(box["y"] + box["height"] for box in found) + _MARGIN
        return {"x": left, "y": top, "width": right - left, "height": bottom - top}
