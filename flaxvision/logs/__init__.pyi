from ._callback import Log as Log
from ._logger import (
    LOGGERS as LOGGERS,
    About as About,
    Logger as Logger,
    Opens as Opens,
    opens as opens,
)
