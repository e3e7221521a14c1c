"""What every test may ask for."""

from __future__ import annotations

import importlib
import os
from types import ModuleType

import pytest


def need(name: str) -> ModuleType:
    """A framework that a test runs against. The test is skipped without it, unless TPDE_REQUIRE_FRAMEWORKS=1 asks for a failure."""
    if os.environ.get("TPDE_REQUIRE_FRAMEWORKS") == "1":
        return importlib.import_module(name)
    module: ModuleType = pytest.importorskip(name)
    return module
