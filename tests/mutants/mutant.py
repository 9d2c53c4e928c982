"""What a seeded defect is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Mutant:
    """One change of a file that its tests must not pass.

    Attributes:
        file: from the root of the repository.
        old: a text that the file has once.
        new: what stands there instead.
        tests: what must catch it: tests as pytest takes them, or "kernels" for the driver.
    """

    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    def __str__(self) -> str:
        old, new = (" ".join(text.split()) for text in (self.old, self.new))
        return f"{self.file}: {old[:50]} -> {new[:50]}"

    def text(self, root: Path = ROOT) -> str:
        """The file with the defect.

        Raises:
            ValueError: the text is not there once.
        """
        text = (root / self.file).read_text() if (root / self.file).exists() else ""
        if text.count(self.old) != 1 or self.old == self.new:
            raise ValueError(f"{self}: the old text is there {text.count(self.old)} times")
        return text.replace(self.old, self.new)
