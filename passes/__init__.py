"""The passes, one file each; a new one is one line here."""

from snnc.pipeline import Pass
from snnc.spec import Registry

from .bias_per_step import BiasPerStep
from .fold_batchnorm import FoldBatchNorm
from .limit_fan_in import LimitFanIn
from .pool_neurons import PoolNeurons
from .quantize_weights import QuantizeWeights
from .replace_max_pool import ReplaceMaxPool
from .threshold_layernorm import ThresholdLayerNorm

PASSES: Registry[Pass] = Registry(
    "snnc.passes",
    "pass",
    {
        "fold-batchnorm": FoldBatchNorm,
        "replace-max-pool": ReplaceMaxPool,
        "pool-neurons": PoolNeurons,
        "threshold-layernorm": ThresholdLayerNorm,
        "bias-per-step": BiasPerStep,
        "limit-fan-in": LimitFanIn,
        "quantize-weights": QuantizeWeights,
    },
)

__all__ = [
    "PASSES",
    "BiasPerStep",
    "FoldBatchNorm",
    "LimitFanIn",
    "PoolNeurons",
    "QuantizeWeights",
    "ReplaceMaxPool",
    "ThresholdLayerNorm",
]
