"""A run's initial weights, if they come from another run."""

from __future__ import annotations

from pydantic import Field, PositiveInt

from foundray.spec.section import Section

SHA256 = r"^[0-9a-f]{64}$"


class BranchFromConfig(Section):
    run: str = Field(min_length=1)
    """Folder of the run from whose checkpoint this one continues; written by `foundray branch`."""
    step: PositiveInt
    """Step of the checkpoint: this run's steps begin after it."""
    state_sha256: str = Field(pattern=SHA256)
    """SHA-256 of the checkpoint's state: the weights, the optimizer's, and a teacher's."""

    def __str__(self) -> str:
        return f"{self.run} at step {self.step}"


class InitFromConfig(Section):
    run: str = Field(min_length=1)
    """Folder of the run that gives the weights, or its name in `runs/`; read once, when this run begins."""
    step: PositiveInt | None = None
    """Step of the checkpoint (default: the newest complete one)."""
    weights_sha256: str | None = Field(default=None, pattern=SHA256)
    """SHA-256 of that checkpoint's weights, as `foundray status` prints it; recorded when this run begins, checked if given."""
    teacher_sha256: str | None = Field(default=None, pattern=SHA256)
    """SHA-256 of its teacher's weights, if both runs have a teacher."""

    def __str__(self) -> str:
        return f"{self.run} at step {self.step}" if self.step else self.run
