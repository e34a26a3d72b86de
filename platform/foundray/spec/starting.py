"""What a run's weights are before its first step, where they are those of another run."""

from __future__ import annotations

from pydantic import Field, PositiveInt

from foundray.spec.section import Section

SHA256 = r"^[0-9a-f]{64}$"


class InitFromConfig(Section):
    run: str = Field(min_length=1)
    """The folder of the run whose weights are taken, or its name in `runs/`; read once, when this run begins."""
    step: PositiveInt | None = None
    """Steps done in the checkpoint that is taken (default: the newest whole one)."""
    weights_sha256: str | None = Field(default=None, pattern=SHA256)
    """Of that checkpoint's weights, as `foundray status` tells it; noted when this run begins, checked where given."""
    teacher_sha256: str | None = Field(default=None, pattern=SHA256)
    """The same of its teacher's weights, where both runs have a teacher."""

    def __str__(self) -> str:
        return f"{self.run} at step {self.step}" if self.step else self.run
