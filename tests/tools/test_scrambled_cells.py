"""The picture of what CRG's terms see: what is drawn is what the loss says."""

from __future__ import annotations

from conftest import import_tool


def test_windows_see_scrambled_cells_and_whole_maps_do_not(tmp_path):
    tool = import_tool('analysis/scrambled_cells')
    found = tool.shares(windows=(4, 40), seeds=1, channels=24)
    for term in ('edge', 'spectral'):
        near, whole = found[term][0]
        assert near > 0.4 and abs(whole) < 1e-3, term
    assert (found['vertex'] > 0.4).all()
    (axes,) = tool.draw(found, (4, 40)).axes
    assert [line.get_label() for line in axes.lines] == ['vertex', 'edge', 'spectral']
    assert [text.get_text() for text in axes.get_xticklabels()] == ['4', 'whole map']
