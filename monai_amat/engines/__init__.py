"""How attacks plug into MONAI's engines: prepare_batch objects and the frozen view of a network."""

from monai_amat.engines.adversarial_noise import AdversarialNoised
from monai_amat.engines.description import describe
from monai_amat.engines.fingerprint import network_fingerprint, state_fingerprint
from monai_amat.engines.frozen import couples_samples, evaluating, frozen, unwrap
from monai_amat.engines.halves import OwnStatisticsInferer, SeparateForwardsInferer
from monai_amat.engines.inferer import FrozenInferer
from monai_amat.engines.objective import BatchObjective, measure
from monai_amat.engines.prepare_attack import AttackedBatch
from monai_amat.engines.prepare_batch import PrepareBatchAdversarial
from monai_amat.engines.prepare_noisy import PrepareBatchNoisy
from monai_amat.engines.prepare_targets import PrepareBatchTargets
from monai_amat.engines.raw_outputs import RawOutputsInferer
from monai_amat.engines.weights import check_finite_weights, load_weights, save_weights

__all__ = [
    "AdversarialNoised",
    "AttackedBatch",
    "BatchObjective",
    "FrozenInferer",
    "OwnStatisticsInferer",
    "PrepareBatchAdversarial",
    "PrepareBatchNoisy",
    "PrepareBatchTargets",
    "RawOutputsInferer",
    "SeparateForwardsInferer",
    "check_finite_weights",
    "couples_samples",
    "describe",
    "evaluating",
    "frozen",
    "load_weights",
    "measure",
    "network_fingerprint",
    "save_weights",
    "state_fingerprint",
    "unwrap",
]
