"""Documentation, built by ``sphinx-build -W docs docs/_build``; it needs no network."""

from torchgeo_specdm import __version__

project = 'torchgeo_specdm'
author = copyright = 'torchgeo_specdm Contributors'
release = version = __version__

extensions = [
    'myst_parser',
    'sphinx.ext.autodoc',
    'sphinx.ext.napoleon',
    'sphinx_copybutton',
    'sphinxarg.ext',
]
exclude_patterns = ['_build']
# options keep their two dashes
smartquotes_action = 'qe'

# the arguments of a class are the init_args of its YAML
autodoc_default_options = {'members': True, 'show-inheritance': True}
autodoc_member_order = 'bysource'
autodoc_typehints = 'description'
autoclass_content = 'both'
napoleon_include_init_with_doc = False

myst_enable_extensions = ['colon_fence']
myst_heading_anchors = 3

html_theme = 'pydata_sphinx_theme'
html_title = f'torchgeo_specdm {release}'
# all pages are in the sidebar, by their captions
html_sidebars = {'**': ['globaltoc.html']}
html_theme_options = {
    'navbar_center': [],
    'navbar_end': ['theme-switcher'],
    'show_toc_level': 2,
}
html_context = {'default_mode': 'auto'}
html_show_sourcelink = False
html_static_path = ['_static']
html_css_files = ['pages.css']
# a browser lets no page that is opened as a file fetch what a summary needs
html_show_search_summary = False
