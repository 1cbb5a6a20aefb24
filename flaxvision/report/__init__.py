"""A sweep's result as tables, figures and one HTML page, and the look of all figures for those of your own.

Importing it is quick: matplotlib, jinja2 and rich are imported when first used.

>>> from flaxvision.report import COLUMN, figure_style, new_figure
>>> with figure_style():
...     axes = new_figure(COLUMN, 2).subplots()
"""

import lazy_loader

# The public names are in __init__.pyi, each with the module that defines it.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
