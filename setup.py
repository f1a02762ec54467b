"""What pyproject.toml cannot say: which packages there are, found in four folders."""

from setuptools import find_packages, setup

MAPPED = ("export", "runtimes", "training")
"""Folders at the top that are imported as subpackages of `svfap_edge`; see `package-dir`."""

setup(
    packages=[
        *find_packages(include=["svfap_edge", "svfap_edge.*"]),
        *(
            f"svfap_edge.{name}"
            for name in find_packages(include=[*MAPPED, *(f"{name}.*" for name in MAPPED)])
        ),
    ],
)
