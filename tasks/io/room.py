"""Whether a table of documents fits on the disk, asked before anything is drawn or read."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from tasks.task import BuildRequest, DataError


def require_room(request: BuildRequest, documents: int) -> None:
    """Raises `DataError` if a table of so many documents, one byte per token, is larger than the disk's free space."""
    folder = request.scratch or Path(tempfile.gettempdir())
    size, free = documents * request.length, shutil.disk_usage(folder).free
    if size > free:
        raise DataError(
            f"{documents:,} documents of {request.length:,} tokens take {size / 1e9:,.0f} GB, and {folder.parent} has "
            f"{free / 1e9:,.0f} GB free: choose a smaller --lengths or fewer examples (--set data.…)"
        )
