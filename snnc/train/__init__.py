"""The learning rules, one file each; a new one is one line here."""

from snnc.pipeline import Pass
from snnc.spec import Registry

from .bptt import BPTT
from .checkpoint import Checkpoints
from .constrain_then_train import ConstrainThenTrain
from .ltl import LTL
from .ltl_online import LTLOnline
from .ottt import OTTT
from .ptl import PTL
from .sltt import SLTT
from .tandem import Tandem
from .tensorboard import TensorBoard
from .tet import TET
from .trainer import Batch, Learner, Rule, Trainer

TRAINERS: Registry[Pass] = Registry(
    "snnc.trainers",
    "trainer",
    {
        "ltl": LTL,
        "ltl-online": LTLOnline,
        "tandem": Tandem,
        "constrain-then-train": ConstrainThenTrain,
        "ptl": PTL,
        "sltt": SLTT,
        "bptt": BPTT,
        "tet": TET,
        "ottt": OTTT,
    },
)

__all__ = [
    "BPTT",
    "LTL",
    "OTTT",
    "PTL",
    "SLTT",
    "TET",
    "TRAINERS",
    "Batch",
    "Checkpoints",
    "ConstrainThenTrain",
    "LTLOnline",
    "Learner",
    "Rule",
    "Tandem",
    "TensorBoard",
    "Trainer",
]
