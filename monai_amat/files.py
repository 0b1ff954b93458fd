"""Files written whole or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

__all__ = ["whole_file", "write_text_whole"]


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """A binary file that takes its name only once it is complete and on disk.

    What is written goes to a temporary file beside `path`, which is flushed, synchronised and renamed at the end; on
    an exception, or a kill, the old file stays as it was.

    Raises:
        OSError: when the folder cannot be written.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> with whole_file(folder / "a.txt") as stream:
        ...     _ = stream.write(b"text")
        >>> (folder / "a.txt").read_text(), len(list(folder.iterdir()))
        ('text', 1)
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.{secrets.token_hex(8)}"
    # Not mkstemp, which makes private files: results are to be read by whoever may read the folder.
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        with os.fdopen(handle, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_text_whole(path: Path, text: str) -> None:
    """Write UTF-8 text through `whole_file`."""
    with whole_file(path) as stream:
        stream.write(text.encode("utf-8"))
