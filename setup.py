"""Only the package mapping: the top-level folders are imported as ``pyswarm.<folder>``."""

from setuptools import find_packages, setup

COMPONENTS = ("cli", "gateway", "manager", "agent", "overlay", "daemon", "proto", "common")

setup(
    packages=[f"pyswarm.{name}" for c in COMPONENTS for name in (c, *(f"{c}.{sub}" for sub in find_packages(c)))],
    package_dir={f"pyswarm.{c}": c for c in COMPONENTS},
    package_data={"pyswarm.proto.v1": ["*.proto", "*.pyi"]},
)
