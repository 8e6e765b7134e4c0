"""Settings of Sphinx for the site; `tools/make_site.py` writes the pages that it reads (`make docs`)."""

project = "sevlm"
author = "The sevlm developers"
copyright = "2026 onwards, The sevlm developers"
language = "en"

extensions = ["myst_nb", "sphinx_copybutton"]
nb_execution_mode = "off"  # outputs are those that the notebooks store
nb_ipywidgets_js = {}  # no scripts from elsewhere; pages with widgets show a stored picture
nb_merge_streams = True
myst_enable_extensions = ["amsmath", "attrs_block", "attrs_inline", "colon_fence", "dollarmath"]
myst_dmath_double_inline = True  # $$...$$ within a paragraph
myst_heading_anchors = 4
nitpicky = True  # a name of the library that is mentioned must have its entry

maximum_signature_line_length = 80
add_module_names = False
toc_object_entries_show_parents = "hide"
python_display_short_literal_types = True

html_theme = "furo"
html_title = "sevlm"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_js_files = ["site.js"]
html_favicon = "_static/favicon.svg"
html_copy_source = False
html_show_sphinx = False
mathjax_path = "mathjax/tex-svg.js"
mathjax3_config = {"options": {"enableMenu": False}}  # the menu offers parts that are not shipped
copybutton_exclude = ".linenos, .gp, .go"
html_theme_options = {
    # blue and orange are PRIMARY and SECONDARY of sevlm.plot, seaborn's colour-blind palette;
    # in the dark its sky blue and light orange, which have a contrast of more than 7 to the ground
    "light_css_variables": {
        "color-brand-primary": "#0173b2",
        "color-brand-content": "#0173b2",
        "color-brand-visited": "#0173b2",
        "color-api-name": "#0173b2",
        "color-api-pre-name": "#5a5c63",
        "color-accent": "#de8f05",
    },
    "dark_css_variables": {
        "color-brand-primary": "#56b4e9",
        "color-brand-content": "#56b4e9",
        "color-brand-visited": "#56b4e9",
        "color-api-name": "#56b4e9",
        "color-api-pre-name": "#a0a2aa",
        "color-accent": "#f0b44c",
    },
}
