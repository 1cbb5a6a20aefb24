from ._from_keras import from_keras as from_keras
from ._from_onnx import from_onnx as from_onnx
from ._from_torch import from_torch as from_torch
from ._summary import (
    LayerRow as LayerRow,
    Summary as Summary,
    count_parameters as count_parameters,
    summary as summary,
)
from .build import Build as Build
from .files import (
    load_model as load_model,
    save_model as save_model,
)
from .registry import (
    create as create,
    list_models as list_models,
)
