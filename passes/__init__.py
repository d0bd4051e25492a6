"""The passes, one file each; a new one is one line here."""

from snnc.pipeline import Pass
from snnc.spec import Registry

from .bias_per_step import BiasPerStep
from .drop_rounding import DropRounding
from .fold_batchnorm import FoldBatchNorm
from .limit_biases import LimitBiases
from .limit_fan_in import LimitFanIn
from .pool_neurons import PoolNeurons
from .quantize_neurons import QuantizeNeurons
from .quantize_weights import QuantizeWeights
from .rectify import Rectify
from .refine_thresholds import RefineThresholds
from .relu_before_max_pool import ReluBeforeMaxPool
from .replace_activation import ReplaceActivation
from .replace_max_pool import ReplaceMaxPool
from .separate_layers import SeparateLayers
from .share_thresholds import ShareThresholds
from .threshold_layernorm import ThresholdLayerNorm

PASSES: Registry[Pass] = Registry(
    "snnc.passes",
    "pass",
    {
        "fold-batchnorm": FoldBatchNorm,
        "drop-rounding": DropRounding,
        "rectify": Rectify,
        "replace-activation": ReplaceActivation,
        "replace-max-pool": ReplaceMaxPool,
        "relu-before-max-pool": ReluBeforeMaxPool,
        "separate-layers": SeparateLayers,
        "pool-neurons": PoolNeurons,
        "threshold-layernorm": ThresholdLayerNorm,
        "bias-per-step": BiasPerStep,
        "refine-thresholds": RefineThresholds,
        "limit-fan-in": LimitFanIn,
        "quantize-weights": QuantizeWeights,
        "share-thresholds": ShareThresholds,
        "limit-biases": LimitBiases,
        "quantize-neurons": QuantizeNeurons,
    },
)

__all__ = [
    "PASSES",
    "BiasPerStep",
    "DropRounding",
    "FoldBatchNorm",
    "LimitBiases",
    "LimitFanIn",
    "PoolNeurons",
    "QuantizeNeurons",
    "QuantizeWeights",
    "Rectify",
    "RefineThresholds",
    "ReluBeforeMaxPool",
    "ReplaceActivation",
    "ReplaceMaxPool",
    "SeparateLayers",
    "ShareThresholds",
    "ThresholdLayerNorm",
]
