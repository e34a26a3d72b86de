"""A small separate disk for a run's storage, which can fill up or stall for a while. Real: ext4 in a file."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

BYTES = 256 * 2**20


class Disk:
    """A disk mounted at `folder`. Raises PermissionError if this user may not mount."""

    def __init__(self, folder: Path):
        self.folder, self.image = folder, folder.with_suffix(".img")
        folder.mkdir()
        with self.image.open("wb") as file:
            file.truncate(BYTES)
        _call("mkfs.ext4", "-q", str(self.image))
        _call("mount", "-o", "loop", str(self.image), str(folder))

    def fill(self) -> None:
        """Leave no room."""
        free = os.statvfs(self.folder)
        with (self.folder / "ballast").open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, free.f_bavail * free.f_bsize)
            file.write(b"full")

    def empty(self) -> None:
        (self.folder / "ballast").unlink(missing_ok=True)

    def freeze(self) -> None:
        """Block all writers from now on."""
        _call("fsfreeze", "--freeze", str(self.folder))

    def thaw(self) -> None:
        _call("fsfreeze", "--unfreeze", str(self.folder))

    def close(self) -> None:
        _call("umount", "--lazy", str(self.folder))
        self.image.unlink()


def _call(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise PermissionError(f"{' '.join(command)}: {done.stderr.strip()}")
