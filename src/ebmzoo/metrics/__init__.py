"""Metrics of samples, out-of-distribution scores and Markov chains, and the feature extractors that they use."""

from ebmzoo.metrics.calibration import Reliability
from ebmzoo.metrics.chains import effective_sample_size, rank_normalised, split_rhat
from ebmzoo.metrics.classifier import Classifier
from ebmzoo.metrics.detection import aupr, aupr_in, auroc, fpr95
from ebmzoo.metrics.distribution import inception_score, kernel_distance, precision_recall
from ebmzoo.metrics.extractors import ClassifierFeatures, FeatureExtractor, Pixels, extract
from ebmzoo.metrics.fidelity import fidelity, mean_squared_error, ssim_window
from ebmzoo.metrics.frechet import FeatureStatistics, frechet_distance
from ebmzoo.metrics.inception import InceptionV3
from ebmzoo.metrics.robustness import ProjectedGradientAttack

__all__ = [
    "Classifier",
    "ClassifierFeatures",
    "FeatureExtractor",
    "FeatureStatistics",
    "InceptionV3",
    "Pixels",
    "ProjectedGradientAttack",
    "Reliability",
    "aupr",
    "aupr_in",
    "auroc",
    "effective_sample_size",
    "extract",
    "fidelity",
    "fpr95",
    "frechet_distance",
    "inception_score",
    "kernel_distance",
    "mean_squared_error",
    "precision_recall",
    "rank_normalised",
    "split_rhat",
    "ssim_window",
]
