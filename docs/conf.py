"""Sphinx: ``make docs`` builds docs/_build/html and fails at the first warning."""

import mmkd_graph
from mmkd_graph.engine.start import without_optional_parts

with without_optional_parts():
    import mmdet.datasets  # noqa: F401 - the packages that it misses are none of the reader's

project = 'mmkd_graph'
copyright = 'the mmkd_graph authors'
version = release = mmkd_graph.__version__
extensions = ['myst_parser', 'sphinx.ext.autodoc', 'sphinx.ext.napoleon']
napoleon_use_ivar = True
exclude_patterns = ['_build']
myst_heading_anchors = 3
autodoc_typehints = 'none'
autodoc_member_order = 'bysource'
html_theme = 'furo'
html_title = f'mmkd_graph {release}'
