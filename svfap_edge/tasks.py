"""Tasks: what a model predicts. The table has the nine benchmarks of the SVFAP paper."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any, Literal

from msgspec import Meta

from .errors import TaskError

Kind = Literal["classes", "values", "traits"]
Bound = Annotated[float, Meta(ge=-1e9, le=1e9)]  # checked where a task is read from a manifest

REFERENCE_FPS = 25.0
"""Frame rate at which the published strides are counted (VoxCeleb2, CREMA-D, MAFW: 25 fps)."""


@dataclass(frozen=True)
class Task:
    """One prediction task.

    Attributes:
        name: Key in `TASKS`, or a name of your own.
        kind: "classes" (one of several, softmax), "values" (continuous affect), "traits"
            (several scores in 0..1 at once; the sigmoid is part of the model).
        labels: Class labels, or names of the values, in the order of the model's outputs.
        low: Lowest value that any output may have (values and traits only).
        high: Highest value that any output may have (values and traits only).
        metrics: Metrics that the field reports for the task, the primary one first.
        stride: Number of frames at 25 fps from one sampled frame of a clip to the next.
        order_certain: False where the published code does not fix the output order. Then check the
            labels against the checkpoint's data preparation, and override them if they differ.
        note: Where the order of the labels comes from.
    """

    name: str
    kind: Kind
    labels: tuple[str, ...]
    low: Bound = 0.0
    high: Bound = 1.0
    metrics: tuple[str, ...] = ("UAR", "WAR")
    stride: Annotated[int, Meta(ge=1, le=10_000)] = 4
    order_certain: bool = True
    note: str = ""

    def __post_init__(self) -> None:
        if not self.labels or len({label.lower() for label in self.labels}) != len(self.labels):
            raise TaskError(
                f"Task '{self.name}': labels must differ, not by case only, and there must be one. "
                f"Got: {', '.join(self.labels)}."
            )
        if any(not label or label != label.strip() for label in self.labels):
            raise TaskError(f"Task '{self.name}': a label is empty or padded: {self.labels}.")
        if self.kind not in ("classes", "values", "traits"):
            raise TaskError(f"Task '{self.name}': kind is classes, values or traits.")
        if not self.low < self.high:
            raise TaskError(
                f"Task '{self.name}': low must be below high; got {self.low} and {self.high}."
            )

    @property
    def spacing_s(self) -> float:
        """Seconds from one sampled frame of a clip to the next."""
        return self.stride / REFERENCE_FPS

    def with_labels(self, labels: Sequence[str]) -> Task:
        """The same task with another output order.

        Raises:
            TaskError: The number of labels differs.
        """
        if len(labels) != len(self.labels):
            raise TaskError(
                f"Task '{self.name}' has {len(self.labels)} outputs ({', '.join(self.labels)}); "
                f"got {len(labels)} labels: {', '.join(labels)}."
            )
        return replace(
            self, labels=tuple(labels), order_certain=True, note="Order given by the user."
        )

    def to_dict(self) -> dict[str, Any]:
        """The task as the manifest stores it."""
        return {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self).items()}


_ASSUMED = "Assumed: {}. The lists published with MAE-DFER by the same authors have it so."
_NOT_PUBLISHED = "Assumed order and range; not in the published code."
_SEVEN = ("happy", "sad", "neutral", "angry", "surprise", "disgust", "fear")
_PUBLISHED = "Order of the published data preparation."
_REGRESSION = ("PCC", "CCC")

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task("dfew", "classes", _SEVEN, note=_PUBLISHED),
        Task("ferv39k", "classes", _SEVEN, stride=1, note=_PUBLISHED),
        Task(
            "mafw",
            "classes",
            (
                "anger",
                "disgust",
                "fear",
                "happiness",
                "neutral",
                "sadness",
                "surprise",
                "contempt",
                "anxiety",
                "helplessness",
                "disappointment",
            ),
            note=_PUBLISHED,
        ),
        Task(
            "ravdess",
            "classes",
            ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised"),
            order_certain=False,
            note=_ASSUMED.format("the emotion codes 01-08 of the RAVDESS file names"),
        ),
        Task(
            "crema-d",
            "classes",
            ("anger", "disgust", "fear", "happy", "neutral", "sad"),
            order_certain=False,
            note=_ASSUMED.format("alphabetical order of the codes ANG DIS FEA HAP NEU SAD"),
        ),
        Task(
            "enterface05",
            "classes",
            ("anger", "disgust", "fear", "happiness", "sadness", "surprise"),
            order_certain=False,
            note=_ASSUMED.format("alphabetical order of the folder names"),
        ),
        Task(
            "werewolf-xl",
            "values",
            ("valence", "arousal", "dominance"),
            low=-1.0,
            metrics=_REGRESSION,
            order_certain=False,
            note=_NOT_PUBLISHED,
        ),
        Task(
            "avcaffe",
            "values",
            ("arousal", "valence"),
            low=-1.0,
            metrics=_REGRESSION,
            order_certain=False,
            note=_NOT_PUBLISHED,
        ),
        Task(
            "first-impressions",
            "traits",
            ("openness", "conscientiousness", "extraversion", "agreeableness", "neuroticism"),
            metrics=("1-MAE", "CCC"),
            order_certain=False,
            note="ChaLearn First Impressions V2, five traits; assumed order.",
        ),
    )
}


METRICS: dict[str, tuple[str, ...]] = {
    "classes": ("UAR", "WAR"), "values": _REGRESSION, "traits": ("1-MAE", "CCC"),
}  # fmt: skip
"""Metrics that the field reports for a kind of task, the primary one first."""


OWN = "own"
"""Name of a task that was given labels and no name."""


def find_task(
    name: str,
    labels: Sequence[str] | None = None,
    kind: str | None = None,
    bounds: tuple[float, float] | None = None,
) -> Task:
    """Find a task of the table, or make one of your own from its labels.

    Args:
        name: A name in `TASKS`, in any case, or a name of your own; "" with labels for `OWN`.
        labels: Output order; it overrides that of the table.
        kind: "classes", "values" or "traits", for a task of your own; None for classes.
        bounds: Lowest and highest value, for values and traits; None for 0 and 1.

    Raises:
        TaskError: The name is not in the table and no labels were given, the number of them differs
            from the table's, or kind and bounds do not fit the task.
    """
    task = TASKS.get(name.lower())
    if task is not None:
        fits = kind in (None, task.kind) and bounds in (None, (task.low, task.high))
        if not fits:
            raise TaskError(
                f"Task '{task.name}' has {task.kind} from {task.low:g} to {task.high:g}; leave out "
                "kind and range, or give a name of your own."
            )
        return task.with_labels(labels) if labels else task
    if not labels:
        unknown = f"No task '{name}'" if name else "No task was named"
        raise TaskError(
            f"{unknown}. Known tasks: {', '.join(TASKS)}. "
            "For a task of your own, give its labels too, in output order (--labels a,b,c), and "
            "for one that is not of classes its --kind."
        )
    kind = kind or "classes"
    if kind not in METRICS:
        raise TaskError(f"A task is of {', '.join(METRICS)}; got '{kind}'.")
    if bounds is not None and kind == "classes":
        raise TaskError("Classes have no range; it is for values and traits.")
    low, high = bounds or (0.0, 1.0)
    return Task(
        name or OWN, kind, tuple(labels), low, high, METRICS[kind],  # type: ignore[arg-type]
        note="Order given by the user.",
    )  # fmt: skip
