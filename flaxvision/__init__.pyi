from . import (
    data as data,
    layers as layers,
    logs as logs,
    models as models,
    play as play,
    report as report,
    runs as runs,
    runtime as runtime,
    sweep as sweep,
    training as training,
)
from .errors import UserError as UserError
from .models import (
    load_model as load_model,
    save_model as save_model,
)
from .training import (
    History as History,
    Metrics as Metrics,
    Recipe as Recipe,
    Result as Result,
    evaluate as evaluate,
    fit as fit,
    predict as predict,
)

__version__: str
