"""What counts as a video and what as a picture: files are known by the ends of their names.

Lists, folders and sources all ask here, so that a file is the same thing to each of them.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".tif", ".tiff",
    ".ppm", ".pgm", ".pbm",
)  # fmt: skip
VIDEO_SUFFIXES = (
    ".mp4", ".mov", ".avi", ".mkv", ".webm", ".flv", ".m4v", ".mpg", ".mpeg", ".wmv",
    ".3gp", ".3g2", ".mts", ".m2ts", ".ts", ".vob", ".ogv", ".gif",
)  # fmt: skip
FOREIGN_SUFFIXES = (".heic", ".heif", ".avif", ".jp2", ".psd", ".dng", ".cr2", ".nef", ".arw")
"""Pictures that are not read; they are refused with the way to convert them."""

CONVERT = "Convert it first, for example with ImageMagick: magick {0} {1}"
"""What to do about a picture that is not read."""


def is_hidden(path: str | os.PathLike[str]) -> bool:
    """Whether a file or folder is none of the user's: `.ipynb_checkpoints`, `__MACOSX`, or
    `._1.jpg`, as macOS leaves beside `1.jpg` on foreign disks."""
    name = os.path.basename(os.fspath(path))
    return name.startswith(".") or name == "__MACOSX"


def is_image(path: str | os.PathLike[str]) -> bool:
    """Whether a name ends as a picture's does, and is not hidden. The file is not opened."""
    return os.fspath(path).lower().endswith(IMAGE_SUFFIXES) and not is_hidden(path)


def is_video(path: str | os.PathLike[str]) -> bool:
    """Whether a name ends as a video's does, and is not hidden. The file is not opened."""
    return os.fspath(path).lower().endswith(VIDEO_SUFFIXES) and not is_hidden(path)


def is_picture(path: str | os.PathLike[str]) -> bool:
    """Whether a name ends as a picture's does, of the kinds that are read and of those that are
    refused, and is not hidden."""
    return is_image(path) or is_foreign(path)


def is_media(path: str | os.PathLike[str]) -> bool:
    """Whether a name ends as a picture's or a video's does, and is not hidden."""
    return is_image(path) or is_video(path)


def is_foreign(path: str | os.PathLike[str]) -> bool:
    """Whether a name ends as that of a picture which is not read, and is not hidden."""
    return os.fspath(path).lower().endswith(FOREIGN_SUFFIXES) and not is_hidden(path)


@contextmanager
def in_utf8(path: str | os.PathLike[str]) -> Iterator[str]:
    """An absolute name of a file, to be written or read, that OpenCV's FFmpeg opens as that file.

    A name that is no UTF-8 would end the process; a link in the temporary folder stands for it, in
    this context only. An open file stays open after it.
    """
    name = os.path.abspath(path)
    try:
        name.encode()
    except UnicodeEncodeError:
        with tempfile.TemporaryDirectory(prefix="svfap-edge-") as folder:
            suffix = os.path.splitext(name)[1].encode("ascii", "ignore").decode()
            link = os.path.join(folder, "file" + suffix)
            os.symlink(name, link)
            yield link
    else:
        yield name
