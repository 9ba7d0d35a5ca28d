"""What the tests of the analysis do without, only to save time."""

import pytest

from analysis import style


@pytest.fixture(autouse=True)
def coarse_pictures(monkeypatch):
    """Pictures of few pixels, and PDFs of fonts that are not cut down to the letters in use, which takes longest."""
    monkeypatch.setitem(style.RC, "savefig.dpi", 50)
    monkeypatch.setitem(style.RC, "pdf.fonttype", 3)
