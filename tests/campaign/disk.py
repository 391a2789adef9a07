"""A small disk of the campaign's own: an ext4 file system in a file, which can be full, slow or frozen. Needs root."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
from pathlib import Path
from typing import Self

_MB = 1 << 20


def can_mount() -> bool:
    """Whether this machine lets us have one."""
    return os.geteuid() == 0 and all(map(shutil.which, ("mkfs.ext4", "losetup", "fsfreeze"))) and _has_loop()


def _has_loop() -> bool:
    return subprocess.run(["losetup", "-f"], capture_output=True, check=False).returncode == 0


class Disk:
    """Mounted until the block ends; without root it is a folder, and nothing can be done to it.

    Args:
        folder: where image and mount point go.
        megabytes: of it.
    """

    def __init__(self, folder: Path, megabytes: int) -> None:
        self.path = folder / "disk"
        self.is_mounted = can_mount()
        self._image, self._filler = folder / "disk.img", self.path / "filler"
        self._megabytes = megabytes
        self._lock, self._frozen = threading.Lock(), False

    def __enter__(self) -> Self:
        self.path.mkdir()
        if self.is_mounted:
            with self._image.open("wb") as file:
                file.truncate(self._megabytes * _MB)
            subprocess.run(["mkfs.ext4", "-q", "-m", "0", self._image], check=True)  # root shall have no reserve
            subprocess.run(["mount", "-o", "loop", self._image, self.path], check=True)
            self.path.chmod(0o755)
        return self

    def __exit__(self, *_: object) -> None:
        if self.is_mounted:
            self.thaw()
            deadline = time.monotonic() + 30
            while subprocess.run(["umount", self.path], capture_output=True, check=False).returncode != 0:
                assert time.monotonic() < deadline, f"{self.path} is still in use"
                time.sleep(0.2)
            self._image.unlink()

    def fill(self) -> None:
        """Not a byte is left."""
        with self._filler.open("wb") as file:
            end, step = 0, 256 * _MB
            while step >= 4096:
                try:
                    os.posix_fallocate(file.fileno(), end, step)
                    end += step
                except OSError:
                    step //= 2

    def empty(self) -> None:
        self._filler.unlink(missing_ok=True)

    def freeze(self) -> None:
        """Nothing is written or synchronised until `thaw`; who tries waits."""
        with self._lock:
            subprocess.run(["fsfreeze", "-f", self.path], check=True)
            self._frozen = True

    def thaw(self) -> None:
        with self._lock:
            if self._frozen:
                subprocess.run(["fsfreeze", "-u", self.path], check=True)
                self._frozen = False
