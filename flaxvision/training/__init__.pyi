from ._fit import (
    fit as fit,
    train_cohort as train_cohort,
)
from .batches import epoch_order as epoch_order
from .callbacks import (
    Callback as Callback,
    Progress as Progress,
)
from .history import (
    History as History,
    Result as Result,
    Timing as Timing,
)
from .metrics import Metrics as Metrics
from .population import Population as Population
from .progress import ProgressBar as ProgressBar
from .recipe import Recipe as Recipe
from .scoring import (
    evaluate as evaluate,
    predict as predict,
)
