"""The answer in words, generated from the contrasts, the costs and the claims: what the records say, and no more."""

from study.report.claims import FAILS, HOLDS, UNDECIDED, verdict_of_better
from study.report.contrasts import BASELINE, PRIMARY, SECONDARY, Contrast, find
from study.report.records import counted
from study.report.results import StudyResults
from study.report.statistics import FEW_SEEDS, Difference
from study.report.tables.text import difference_text


def verdict(study: StudyResults) -> str:
    """Markdown: the primary contrast, its price, the cheaper ways to the same end, and how the claims came out."""
    lines = [f"{study.caption}.", _primary(study), _price(study), *_cheaper(study), _claims(study)]
    return "\n\n".join(filter(None, lines)) + "\n"


def _primary(study: StudyResults) -> str:
    found = find(study.records, [PRIMARY.ours], [PRIMARY.theirs])
    if found is None:
        return f"**The primary contrast ({PRIMARY}) has no trials yet.**"
    return f"**{_sentence(PRIMARY, found)}.**"


def _sentence(contrast: Contrast, found: Difference) -> str:
    return f"{contrast}: {_difference(found)}: {_answer(found)}"


def _answer(found: Difference) -> str:
    """By the rule of the claims."""
    if found.seeds < FEW_SEEDS:
        return f"undecided, with fewer than {FEW_SEEDS} seeds"
    low, high = found.bounds(0.95)
    if high < 0:
        return "P4M is worse"
    answers = {HOLDS: "P4M is better", FAILS: "P4M is not better", UNDECIDED: "undecided"}
    return answers[verdict_of_better(low, high)]


def _difference(found: Difference) -> str:
    return f"{difference_text(found)} points of Dice over {counted(found.seeds, 'seed')}"


def _price(study: StudyResults) -> str:
    costs = study.costs[study.costs.reading == ""].set_index("model")
    if not {"p4m", BASELINE} <= set(costs.index):
        return ""
    ours, theirs = costs.loc["p4m"], costs.loc[BASELINE]
    parts = [
        _times(ours[column] / theirs[column], name)
        for column, name in [
            ("seconds", "seconds of training"),
            ("prediction_ms", "seconds of a prediction"),
            ("multiplications", "multiplications of a prediction"),
            ("parameters", "parameters"),
        ]
        if ours[column] == ours[column]  # not NaN
    ]
    return f"Its price against the augmented U-Net: {', '.join(parts)}."


def _times(ratio: float, name: str) -> str:
    rounded = f"{ratio:.2g}"
    return f"as many {name}" if rounded == "1" else f"{rounded} times the {name}"


def _cheaper(study: StudyResults) -> list[str]:
    """P4M against what costs as much or less and may do as well."""
    lines = []
    for contrast in SECONDARY:
        found = find(study.records, [contrast.ours], [contrast.theirs])
        if found and contrast.ours.model == "p4m":
            lines.append(f"- {_sentence(contrast, found)}")
    return ["Against cheaper ways to the same end, and on all of the data:", "\n".join(lines)] if lines else []


def _claims(study: StudyResults) -> str:
    lines = []
    for task, rows in study.claims.groupby("task", sort=False):
        numbers = {f"**{verdict}**": (rows.verdict == verdict).sum() for verdict in (HOLDS, FAILS, UNDECIDED)}
        numbers["without trials yet"] = rows.verdict.isna().sum()
        counted = ", ".join(f"{text}: {number}" for text, number in numbers.items() if number)
        lines.append(f"Of the paper's {len(rows)} claims on {task}, by the rule of the table of claims: {counted}.")
    return "\n\n".join(lines)
