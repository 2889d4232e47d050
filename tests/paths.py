"""Where tests find numbers and photographs."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
REFERENCE = Path(__file__).parent / "reference"
BSDS500 = Path(os.environ.get("BSDS500", ROOT.parent / "shared" / "bsds500"))
needs_photographs = pytest.mark.skipif(not BSDS500.is_dir(), reason=f"no BSDS500 photographs at {BSDS500}; set BSDS500")
