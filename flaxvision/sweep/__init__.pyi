from ._differences import (
    Difference as Difference,
    Differences as Differences,
    differences as differences,
)
from ._rerun import (
    Rerun as Rerun,
    rerun as rerun,
)
from ._resume import resume as resume
from ._run import run as run
from .overrides import override as override
from .parse import (
    list_specs as list_specs,
    load_spec as load_spec,
    parse_spec as parse_spec,
)
from .progress import Watcher as Watcher
from .provenance import (
    data_sources as data_sources,
    device as device,
    versions as versions,
)
from .results import (
    Cell as Cell,
    Outcome as Outcome,
    Searched as Searched,
    SweepResult as SweepResult,
    Verdict as Verdict,
    converged as converged,
)
from .spec import (
    Spec as Spec,
    config_hash as config_hash,
)
