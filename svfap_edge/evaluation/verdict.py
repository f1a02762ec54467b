"""The verdict on an artifact by fixed rules, and the sentence that states it."""

from __future__ import annotations

from collections.abc import Sequence

from .analysis_types import ArtifactAnalysis, Drop, Outcome

MIN_FILES = 100
"""Below this a drop of 3 points can hide: of n files without a change, 3/n may change (95 %)."""

WIDEST = 6.0
"""Points from end to end of an interval (+-3) above which it may say nothing."""

SAME_SPEED = 0.05
"""Speeds and sizes closer than this share count as the same."""


def judge(
    drops: Sequence[Drop],
    files: int,
    limit: float,
    speedup: float | None,
    shrink: float,
) -> tuple[Outcome, Drop]:
    """The rules of the verdict, worst first; the first that any primary metric meets decides.

    1. "drop": it drops by more than the limit and the interval excludes 0. The drop is real.
    2. "too few": the interval is wider than +-3 points and includes both 0 and the limit, or there
       are fewer than `MIN_FILES` files. Nothing can be said.
    3. "over limit": it drops by more than the limit, but chance could explain it.

    Accuracy being fine, speed decides (within 5 % counts as the same):

    4. "unmeasured": no latencies.
    5. "slower": than the baseline.
    6. "no gain": as fast, and not at least 5 % smaller.
    7. "ship": faster; or as fast and smaller.

    Args:
        drops: Drops of the primary metrics, the most important one first.
        limit: Points that a metric may drop by.
        speedup, shrink: Latency and size of the baseline, divided by those of the candidate.

    Returns:
        The rule, and the drop to show with it: the first that meets it, else the first of all.
    """
    over = [d for d in drops if d.points > limit + 1e-9]
    real = [d for d in over if d.low > 0]
    if real:
        return "drop", real[0]
    wide = [d for d in drops if d.high - d.low > WIDEST and d.low <= 0 and d.high >= limit]
    if wide or files < MIN_FILES:
        return "too few", (wide or list(drops))[0]
    if over:
        return "over limit", over[0]
    if speedup is None:
        return "unmeasured", drops[0]
    if speedup < 1 - SAME_SPEED:
        return "slower", drops[0]
    if speedup < 1 + SAME_SPEED and shrink < 1 + SAME_SPEED:
        return "no gain", drops[0]
    return "ship", drops[0]


def signed(points: float, digits: int = 1) -> str:
    """A number with its sign, like -0.4 or +0.3; 0.0 has none."""
    text = f"{points:+.{digits}f}"
    return text if float(text) else text[1:]


def change_text(drop: Drop, limit: float | None = None) -> tuple[str, str]:
    """Change in points (value - baseline, negative is worse) and its interval, "-1.1 to +0.3".

    With a limit, a second decimal is shown where one would hide that the drop is over it.
    """
    digits = 2 if limit is not None and round(drop.points, 1) <= limit < drop.points else 1
    span = f"{signed(-drop.high, digits)} to {signed(-drop.low, digits)}"
    return signed(-drop.points, digits), span


def sentence(
    outcome: Outcome,
    drop: Drop,
    baseline: ArtifactAnalysis,
    artifact: ArtifactAnalysis,
    files: int,
    limit: float,
    speedup: float | None,
) -> str:
    """The line that states the outcome, the drop behind it and the speed."""
    change, span = change_text(drop, limit)
    found = f"{artifact.name}: {drop.metric} {change} points (95 % {span})"
    if outcome == "drop":
        return f"{found}: the drop is real, do not"
    if outcome == "too few" and files < MIN_FILES:
        why = f"{files}, and below {MIN_FILES} a drop of 3 points can hide"
        return f"{artifact.name}: too few files to tell ({why}): evaluate on more"
    if outcome == "too few":
        return f"{artifact.name}: too few files to tell (95 % {span}): evaluate on more"
    if outcome == "over limit":
        return f"{found}: over the limit of {limit:g}, but it may be chance: evaluate on more"
    if speedup is None:
        return f"{found}, speed not measured: the accuracy holds, measure the speed"
    if speedup < 1 - SAME_SPEED:
        slow = f"{found}, {speedup:.1f}x the speed of {baseline.name}"
        ours, theirs = (a.precision.replace("int", "INT") for a in (artifact, baseline))
        if ours == theirs:
            return f"{slow}: it is slower than {baseline.name} here, do not"
        return f"{slow}: {ours} is slower than {theirs} here, do not"
    if speedup >= 1 + SAME_SPEED:
        return f"{found}, {speedup:.1f}x faster than {baseline.name}: ship it"
    equal = f"{found}, as fast as {baseline.name}"
    if outcome == "no gain":
        return f"{equal}: nothing gained, keep {baseline.name}"
    return f"{equal}, {baseline.bytes / max(artifact.bytes, 1):.1f}x smaller: ship it"
