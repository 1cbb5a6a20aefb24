from ._app import (
    app as app,
    serve as serve,
)
from ._views import (
    View as View,
    Viewer as Viewer,
    tiles as tiles,
)
