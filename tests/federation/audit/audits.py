"""Score tables for the audit's tests, with rates that are known because they are counted out."""

import numpy as np

from federation.audit.comparisons import Comparisons, Sides
from federation.audit.strings import FixedStrings

ACCEPTED, REJECTED = 0.9, 0.1
THRESHOLD = 0.5


def counted(cells, *, attributes=("sex", "age"), genuine=4000, impostor=40000):
    """Independent comparisons with exactly the given rates.

    Args:
        cells: (fmr, fnmr) by labels.
        attributes: their names.
        genuine: genuine comparisons of each cell.
        impostor: impostor comparisons of each cell.
    """
    scores, same, labels = [], [], []
    for values, (fmr, fnmr) in cells.items():
        wrong, rejected = round(fmr * impostor), round(fnmr * genuine)
        scores += [ACCEPTED] * wrong + [REJECTED] * (impostor - wrong)
        scores += [REJECTED] * rejected + [ACCEPTED] * (genuine - rejected)
        same += [False] * impostor + [True] * genuine
        labels += [values] * (impostor + genuine)
    return Comparisons.of(
        scores, same, {name: [values[axis] for values in labels] for axis, name in enumerate(attributes)}
    )


def crowd(seed, *, people=30, images=3, groups=("a", "b"), spread=0.4, distance=False, worse=None):
    """Everybody against everybody: people who are like many others, or like themselves no longer, as in real data.

    Returns:
        Keyword arguments for `Comparisons.of`.
    """
    rng = np.random.default_rng(seed)
    group = np.array([groups[index % len(groups)] for index in range(people)])
    likeness, poverty = rng.normal(0, spread, people), rng.normal(0, spread, people)
    if worse is not None:
        likeness[group == worse] += 1.0
    first, second = (side.ravel() for side in np.triu_indices(people))
    first, second = np.repeat(first, images), np.repeat(second, images)
    same = first == second
    centre = np.where(same, 5 - poverty[first] - poverty[second], likeness[first] + likeness[second])
    scores = centre + rng.normal(0, 1, len(first))
    name = np.array([f"p{index}" for index in range(people)])
    return {
        "scores": -scores if distance else scores,
        "same": same,
        "attributes": {"group": (group[first].tolist(), group[second].tolist())},
        "people": (name[first].tolist(), name[second].tolist()),
    }


def tried(accepted, *, each=1, people=40):
    """Distances 0 (accepted) or 2 of templates: `accepted` of the people accept, with all their `each` templates."""
    names = [f"p{number}" for number in range(people)]
    rows = [
        (0.0 if number < accepted else 2.0, kind == "best", f"{kind} {number % 2}", name)
        for kind in ("mean", "best")
        for number, name in enumerate(names)
        for _ in range(each)
    ]
    scores, best, string, met = zip(*rows, strict=True)
    return FixedStrings(np.array(scores), np.array(best), Sides.of(string, met))
