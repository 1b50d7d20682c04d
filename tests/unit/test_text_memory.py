"""Long texts cost at most three times their bytes, in memory and on the disk, from the loader to the files."""

from __future__ import annotations

from pathlib import Path

from benchmarks.text_memory import loaded, peak, prepared, read_back


def test_long_texts_cost_at_most_three_times_their_bytes(tmp_path: Path) -> None:
    """Loading, checking, splitting and saving 10,000 reviews of 13 MB, and reading them, holds at most 40 MB."""
    (tmp_path / "first").mkdir()
    found = [peak(case, "reviews", 10_000, tmp_path) for case in (loaded, prepared, read_back)]
    own = int((tmp_path / "bytes").read_text())
    assert own > 10_000_000
    assert max(found) <= 3 * own, [size / own for size in found]
    assert sum(file.stat().st_size for file in tmp_path.glob("*.npz")) <= 3 * own
