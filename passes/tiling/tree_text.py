"""LightGBM's text of trees, checked before LightGBM sees it.

LightGBM's own reader trusts what it reads: a child that is no node is read all the same, and a node
that is its own ancestor is walked for ever.  So the text is read here, every index is compared with
what there is, and what goes on to LightGBM is written anew from what was understood: nodes, leaves
and the few lines of the header.  Trees with categories or with linear leaves are not ours.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

MOST_BYTES = 32 << 20
MOST_TREES = 4000
MOST_LEAVES = 1024
_NUMBER = re.compile(r"-?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
# Those that make one number of one number.  LightGBM believes the objective, not num_class: one of
# several classes writes that many numbers where there is room for one.
_OBJECTIVE = re.compile(
    r"(?:regression|regression_l1|huber|fair|poisson|quantile|mape|gamma|tweedie)(?: sqrt)?"
    r"|lambdarank|rank_xendcg|cross_entropy|cross_entropy_lambda"
    r"|binary sigmoid:(?P<sigmoid>[0-9]{1,6}(?:\.[0-9]{1,20})?)"
)
# Per node; the number of nodes is one less than that of leaves.
_WHOLE = ("split_feature", "decision_type", "left_child", "right_child")
# Bits of a decision: 1 is a category, 2 says where a missing value goes, 4 and 8 what is missing.
_MOST_DECISION = 15


class TreeError(ValueError):
    """The text is no LightGBM model that lowc would load; says what is wrong with it."""


def checked(text: str, features: Sequence[str]) -> tuple[str, int]:
    """Return the model as it may be given to LightGBM, and how many trees it has.

    Raises
    ------
    TreeError
        When it is damaged, too large, or about other features.
    """
    if len(text) > MOST_BYTES:
        raise TreeError(f"it is larger than {MOST_BYTES >> 20} MiB")
    # Python reads digits of every script, and LightGBM only these.
    if not text.isascii():
        raise TreeError("it has letters or digits that are not ASCII")
    body, end, _ = text.partition("\nend of trees")
    if not end:
        raise TreeError("it has no end of its trees")
    head, *trees = re.split(r"\n+Tree=[0-9]+\n", body)
    if len(trees) > MOST_TREES:
        raise TreeError(f"it has {len(trees)} trees, more than {MOST_TREES}")
    # Forests (boosting=rf) have the line "average_output" there: what they say is no sum.
    if "average_output" in head.split():
        raise TreeError("it averages its trees (boosting=rf), and lowc adds them up")
    facts = _lines(head)
    if facts.get("feature_names", "").split() != list(features):
        raise TreeError("it is about other features than this lowc has")
    if facts.get("num_class") != "1" or facts.get("num_tree_per_iteration") != "1":
        raise TreeError("it predicts more than one number")
    objective = facts.get("objective", "")
    known = _OBJECTIVE.fullmatch(objective)
    if known is None or (known["sigmoid"] and not float(known["sigmoid"])):
        raise TreeError(f"its objective is '{objective[:40]}', none that gives one number")
    lines = [
        "tree", "version=v4", "num_class=1", "num_tree_per_iteration=1", "label_index=0",
        f"max_feature_idx={len(features) - 1}", f"objective={objective}",
        "feature_names=" + " ".join(features),
        "feature_infos=" + " ".join(["none"] * len(features)),
        "",
    ]  # fmt: skip
    for number, tree in enumerate(trees):
        lines += [f"Tree={number}", *_tree(_lines(tree), len(features), number), "", ""]
    return "\n".join([*lines, "end of trees", ""]), len(trees)


def _lines(text: str) -> dict[str, str]:
    pairs = (line.partition("=") for line in text.splitlines())
    return {key: value for key, equals, value in pairs if equals}


def _tree(facts: dict[str, str], features: int, number: int) -> list[str]:
    where = f"its tree {number}"
    leaves = _count(facts.get("num_leaves", ""), where)
    if facts.get("num_cat", "0") != "0" or facts.get("is_linear", "0") != "0":
        raise TreeError(f"{where} has categories or linear leaves")
    values = _numbers(facts, "leaf_value", leaves, where)
    shrinkage = facts.get("shrinkage", "1")
    if not _is_number(shrinkage):
        raise TreeError(f"{where} has the shrinkage '{shrinkage[:20]}'")
    lines = [f"num_leaves={leaves}", "num_cat=0"]
    if leaves > 1:
        thresholds = _numbers(facts, "threshold", leaves - 1, where)
        nodes = {name: _whole(facts, name, leaves - 1, where) for name in _WHOLE}
        _check_nodes(nodes, leaves, features, where)
        # LightGBM reads how often each node was passed, and does not use it.
        rest = {
            "split_gain": "0",
            "internal_value": "0",
            "internal_weight": "0",
            "internal_count": "0",
        }
        lines += [f"{name}=" + " ".join(map(str, values)) for name, values in nodes.items()]
        lines.append("threshold=" + " ".join(thresholds))
        lines += [f"{name}=" + " ".join([zero] * (leaves - 1)) for name, zero in rest.items()]
    lines.append("leaf_value=" + " ".join(values))
    lines += [f"{name}=" + " ".join(["0"] * leaves) for name in ("leaf_weight", "leaf_count")]
    return [*lines, "is_linear=0", f"shrinkage={shrinkage}"]


def _count(text: str, where: str) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", text) or not 1 <= int(text) <= MOST_LEAVES:
        raise TreeError(f"{where} has '{text[:20]}' leaves, not 1 to {MOST_LEAVES}")
    return int(text)


def _numbers(facts: dict[str, str], name: str, count: int, where: str) -> list[str]:
    words = facts.get(name, "").split(" ") if facts.get(name) else []
    if len(words) != count:
        raise TreeError(f"{where} has {len(words)} values of {name}, not {count}")
    for word in words:
        if not _is_number(word):
            raise TreeError(f"{where} has the {name} '{word[:20]}'")
    return words


def _is_number(word: str) -> bool:
    return _NUMBER.fullmatch(word) is not None and math.isfinite(float(word))


def _whole(facts: dict[str, str], name: str, count: int, where: str) -> list[int]:
    words = _numbers(facts, name, count, where)
    try:
        return [int(word) for word in words]
    except ValueError as error:
        raise TreeError(f"{where} has a node that is no whole number") from error


def _check_nodes(nodes: dict[str, list[int]], leaves: int, features: int, where: str) -> None:
    """Raise unless the nodes are one tree, whose root is node 0."""
    used, kinds, lefts, rights = (nodes[name] for name in _WHOLE)
    for feature, kind in zip(used, kinds, strict=True):
        if not 0 <= feature < features:
            raise TreeError(f"{where} asks for feature {feature} of {features}")
        if not 0 <= kind <= _MOST_DECISION or kind & 1:
            raise TreeError(f"{where} has a decision of kind {kind}")
    # A child comes behind its parent, so nobody is their own ancestor; leaf i is called -1 - i.
    for parent, children in enumerate(zip(lefts, rights, strict=True)):
        if any(0 <= child <= parent for child in children):
            raise TreeError(f"{where} has a node that comes before its parent")
    if sorted(lefts + rights) != [*range(-leaves, 0), *range(1, leaves - 1)]:
        raise TreeError(f"{where} has nodes or leaves with no parent, or with two")
