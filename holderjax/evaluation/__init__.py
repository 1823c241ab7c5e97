"""Evaluation: classifiers, coherence, pictures, and the report that puts them into a run folder."""

from holderjax.evaluation.classifiers import Classifier, Recipe, load_classifiers
from holderjax.evaluation.report import evaluate, evaluate_each, evaluated_step

__all__ = [
    "Classifier",
    "Recipe",
    "evaluate",
    "evaluate_each",
    "evaluated_step",
    "load_classifiers",
]
