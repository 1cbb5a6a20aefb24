"""A page in the browser that shows what a trained network makes of an image: `flaxvision play RUN`."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
