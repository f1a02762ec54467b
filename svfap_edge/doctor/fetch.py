"""Getting YuNet's file, for those who ask for it. Nothing else in the package downloads."""

from __future__ import annotations

import os
from pathlib import Path

from svfap_edge.cache import FACE_MODEL_NAME, cache_root
from svfap_edge.errors import ConfigError, DependencyMissing, SourceError
from svfap_edge.sources.passwords import without_passwords

from .checks import FACE_MODEL_SHA256

FACE_MODEL_URL = (
    "https://github.com/opencv/opencv_zoo/raw/main/models/face_detection_yunet/" + FACE_MODEL_NAME
)
"""Address of the file in OpenCV Zoo; `SVFAP_EDGE_FACE_MODEL_URL` names another one."""

TIMEOUT_S = 30.0
"""Seconds that the server may be silent."""


def fetch_face_model() -> Path:
    """Download YuNet's file into the cache folder, unless the right file is there already.

    Returns:
        Path of the file. It appears there only when all of it came and its digest is right.

    Raises:
        DependencyMissing: pooch is not installed.
        ConfigError: the cache is off.
        SourceError: the server cannot be reached, the connection broke, or the file is another.
    """
    try:
        import pooch
    except ImportError as error:
        raise DependencyMissing(
            'Downloading needs pooch: pip install "svfap-edge[fetch]", or copy '
            f"{FACE_MODEL_NAME} from OpenCV Zoo yourself."
        ) from error
    root = cache_root()
    if root is None:
        raise ConfigError("There is no cache folder to download to: set SVFAP_EDGE_CACHE to one.")
    url = os.environ.get("SVFAP_EDGE_FACE_MODEL_URL") or FACE_MODEL_URL
    shown = without_passwords(url)
    pooch.get_logger().setLevel("ERROR")
    try:
        found = pooch.retrieve(
            url,
            f"sha256:{FACE_MODEL_SHA256}",
            fname=FACE_MODEL_NAME,
            path=root,
            downloader=pooch.HTTPDownloader(timeout=TIMEOUT_S),
        )
    except ValueError as error:
        raise SourceError(
            f"What '{shown}' gave is not {FACE_MODEL_NAME}: its SHA-256 is not "
            f"{FACE_MODEL_SHA256[:12]}... Nothing was kept. Check SVFAP_EDGE_FACE_MODEL_URL, or "
            "what stands between this machine and the server."
        ) from error
    except OSError as error:  # of the network, and of the disk
        raise SourceError(
            f"'{shown}' cannot be downloaded to '{root}': {str(error).strip()[:300]}. Check the "
            f"network and the disk, or copy {FACE_MODEL_NAME} into that folder yourself."
        ) from error
    return Path(found)
