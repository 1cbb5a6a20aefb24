from ._compare import (
    Parity as Parity,
    ParityTable as ParityTable,
    compare as compare,
)
from ._from_keras import from_keras as from_keras
from ._from_onnx import from_onnx as from_onnx
from ._keras import to_keras as to_keras
from ._onnx import to_onnx as to_onnx
from ._precision import calibration_of as calibration_of
from ._winner import export_winner as export_winner
from ._torch import (
    from_torch as from_torch,
    save_torch as save_torch,
    to_torch as to_torch,
)
from ._trajectory import (
    Parting as Parting,
    Trajectory as Trajectory,
    trajectory as trajectory,
)
