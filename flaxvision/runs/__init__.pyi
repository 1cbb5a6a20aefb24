from ._compare import (
    Comparison as Comparison,
    Difference as Difference,
    compare as compare,
)
from ._list import list_runs as list_runs
from ._open import (
    Run as Run,
    open as open,
)
