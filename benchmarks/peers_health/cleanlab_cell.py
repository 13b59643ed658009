"""Rank labels with cleanlab, as its documentation calls it. Run by the interpreter of an environment that holds cleanlab.

    python cleanlab_cell.py INPUT.npz OUTPUT.npy

INPUT holds `vectors` [N, H], `labels` [N], and for words of sentences `sentences` [N]. OUTPUT gets cleanlab's quality of
each label, low for wrong ones: of `CleanLearning` with scikit-learn's logistic regression for rows, and of
`token_classification` on cross-validated probabilities of the same regression for words.
"""

import sys

import numpy as np
from cleanlab.classification import CleanLearning
from cleanlab.token_classification.rank import get_label_quality_scores
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_predict


def main() -> None:
    """Write the quality of each label."""
    given = np.load(sys.argv[1])
    vectors, labels = given["vectors"], given["labels"]
    regression = LogisticRegression(max_iter=200)
    if "sentences" not in given:
        issues = CleanLearning(regression, cv_n_folds=5, seed=13).find_label_issues(vectors, labels)
        np.save(sys.argv[2], issues["label_quality"].to_numpy())
        return
    sentences = given["sentences"]
    probabilities = cross_val_predict(
        regression, vectors, labels, groups=sentences, cv=GroupKFold(5), method="predict_proba"
    )
    bounds = np.flatnonzero(np.diff(sentences)) + 1
    words = np.split(labels, bounds)
    _, tokens = get_label_quality_scores([part.tolist() for part in words], np.split(probabilities, bounds))
    np.save(sys.argv[2], np.concatenate([scores.to_numpy() for scores in tokens]))


if __name__ == "__main__":
    main()
