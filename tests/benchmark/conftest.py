"""What else runs on the machine of the tests is no part of what they expect."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from svfap_edge.machine import OtherLoad


@pytest.fixture(scope="package", autouse=True)
def _nobody_else() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OtherLoad, "sentence", lambda self: None)
        yield
