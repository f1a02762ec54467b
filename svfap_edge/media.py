"""What counts as a video and what as a picture: files are known by the ends of their names.

Lists, folders and sources all ask here, so that a file is the same thing to each of them.
"""

from __future__ import annotations

import os

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
VIDEO_SUFFIXES = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".flv", ".m4v", ".mpg", ".mpeg", ".wmv")


def is_image(path: str | os.PathLike[str]) -> bool:
    """Whether a name ends as a picture's does. The file need not exist, and is not opened."""
    return os.fspath(path).lower().endswith(IMAGE_SUFFIXES)


def is_video(path: str | os.PathLike[str]) -> bool:
    """Whether a name ends as a video's does. The file need not exist, and is not opened."""
    return os.fspath(path).lower().endswith(VIDEO_SUFFIXES)


def is_media(path: str | os.PathLike[str]) -> bool:
    """Whether a name ends as a picture's or a video's does."""
    return is_image(path) or is_video(path)
