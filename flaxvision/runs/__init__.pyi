from ._compare import (
    Comparison as Comparison,
    SettingDifference as SettingDifference,
    compare as compare,
)
from ._list import list_runs as list_runs
from ._open import (
    Run as Run,
    open as open,
)
