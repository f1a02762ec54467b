"""Reading clips: which frames, in which order, and what cannot be read."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from svfap_edge.errors import SourceError, UnreadableClip
from svfap_edge.lists import Item
from svfap_edge.tasks import Task
from svfap_edge.training.clips.reading import LabelledClips, Sampling, Unreadable
from svfap_edge.training.datasets.prepare import find_images
from svfap_edge.training.datasets.split import write_lists

from ...recordings import write_video

TASK = Task("moods", "classes", ("calm", "glad"))


def write_frames(folder: Path, count: int, side: int = 8) -> Path:
    folder.mkdir()
    for index in range(count):
        cv2.imwrite(str(folder / f"{index}.png"), np.full((side, side, 3), 5 * index, np.uint8))
    return folder


def clips_of(path: Path, **sampling: float) -> LabelledClips:
    return LabelledClips([Item(path)], np.zeros(1, int), Sampling(**sampling))  # type: ignore[arg-type]


def numbers(clip: np.ndarray) -> list[int]:
    """Frame numbers, by their level."""
    return [round(float(frame.mean()) / 5) for frame in clip]


def test_video_views_are_spread_evenly(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", [40 * i for i in range(41)], g="5")
    clips = clips_of(path, frames=4, spacing_s=0.16, views=3)
    found = [numbers(clips.read(0, view=view)) for view in range(3)]
    assert found == [[0, 4, 8, 12], [14, 18, 22, 26], [28, 32, 36, 40]]
    assert numbers(clips_of(path, frames=4, views=1).read(0)) == [14, 18, 22, 26]
    clip = clips.read(0)
    assert clip.shape == (4, 48, 64, 3)
    assert clip.dtype == np.uint8
    with pytest.raises(ValueError, match="View 3 of 3"):
        clips.read(0, view=3)


def test_times_of_a_variable_frame_rate_are_kept(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", [0, 20, 40, 60, 80, 400, 800, 1200])
    clips = clips_of(path, frames=4, spacing_s=0.4, views=1)
    assert numbers(clips.read(0)) == [0, 5, 6, 7]


def test_a_short_video_repeats_its_last_frame(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", [40 * i for i in range(10)])
    clips = clips_of(path, frames=5, spacing_s=0.16, views=2)
    assert numbers(clips.read(0, view=0)) == [0, 4, 8, 9, 9]
    assert numbers(clips.read(0, view=1)) == [0, 4, 8, 9, 9]
    assert numbers(clips.read(0, np.random.default_rng(3))) == [0, 4, 8, 9, 9]


@pytest.mark.parametrize("name", ["v.mp4", "v.mkv", "v.avi"])
def test_frames_that_are_stored_out_of_order(tmp_path: Path, name: str) -> None:
    times = [40 * i for i in range(40)]
    path = write_video(tmp_path / name, times, g="8", bf="2")
    clips = clips_of(path, frames=3, spacing_s=0.08, views=38)
    for view in range(0, 38, 5):
        first = round(view * (39 - 4) / 37)
        found = numbers(clips.read(0, view=view))
        assert np.abs(np.array(found) - (first, first + 2, first + 4)).max() <= 1
        assert np.diff(found).tolist() == [2, 2]


def test_the_start_is_drawn_from_the_generator_alone(tmp_path: Path) -> None:
    clips = clips_of(write_frames(tmp_path / "f", 40), frames=3, stride=2)
    first = [numbers(clips.read(0, np.random.default_rng(seed))) for seed in range(40)]
    again = [numbers(clips.read(0, np.random.default_rng(seed))) for seed in range(40)]
    assert first == again
    assert all(b - a == 2 and c - b == 2 for a, b, c in first)
    starts = {frames[0] for frames in first}
    assert len(starts) > 15
    assert min(starts) < 5
    assert max(starts) > 30


def test_folder_of_frames_in_natural_order_by_stride(tmp_path: Path) -> None:
    folder = write_frames(tmp_path / "f", 12)
    clips = clips_of(folder, frames=3, stride=4, spacing_s=9.0)
    assert numbers(clips.read(0, view=0)) == [0, 4, 8]
    assert numbers(clips.read(0, view=1)) == [3, 7, 11]
    assert numbers(clips_of(folder, frames=15, stride=1).read(0)) == [*range(12), 11, 11, 11]


def test_folder_with_times_goes_by_seconds(tmp_path: Path) -> None:
    folder = write_frames(tmp_path / "f", 4)
    lines = [f"{i}.png,{t}\n" for i, t in enumerate((5.0, 5.1, 6.0, 7.0))]
    (folder / "timestamps.csv").write_text("".join(lines))
    assert numbers(clips_of(folder, frames=3, spacing_s=1.0, views=1).read(0)) == [0, 2, 3]


def test_frames_of_other_sizes_are_resized_to_the_first(tmp_path: Path) -> None:
    folder = write_frames(tmp_path / "f", 3)
    cv2.imwrite(str(folder / "1.png"), np.full((20, 10, 3), 5, np.uint8))
    clip = clips_of(folder, frames=3, stride=1).read(0)
    assert clip.shape == (3, 8, 8, 3)
    assert numbers(clip) == [0, 1, 2]


def test_an_image_is_repeated_in_rgb(tmp_path: Path) -> None:
    image = np.zeros((6, 4, 3), np.uint8)
    image[..., 2] = 200  # red, as OpenCV writes it
    cv2.imwrite(str(tmp_path / "x.png"), image)
    clip = clips_of(tmp_path / "x.png", frames=5).read(0)
    assert clip.shape == (5, 6, 4, 3)
    assert (clip == (200, 0, 0)).all()


def test_list_with_labels(tmp_path: Path) -> None:
    write_frames(tmp_path / "f", 3)
    write_frames(tmp_path / "g", 3)
    (tmp_path / "train.txt").write_text("f 1\ng calm\n")
    clips = LabelledClips.open(tmp_path / "train.txt", TASK, Sampling())
    assert len(clips) == 2
    assert clips.targets.tolist() == [1, 0]
    assert clips.sampling.stride == 4
    (tmp_path / "train.txt").write_text("f 2\n")
    with pytest.raises(SourceError, match=r"labelled '2'.*outside task 'moods'"):
        LabelledClips.open(tmp_path / "train.txt", TASK, Sampling())


def test_indices_of_prepared_lists_keep_their_meaning(tmp_path: Path) -> None:
    for name in ("calm", "glad"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(4):
            image = np.zeros((8, 8, 3), np.uint8)
            cv2.imwrite(str(tmp_path / "images" / name / f"{number}.png"), image)
    found = find_images(tmp_path / "images")
    done = write_lists(found, tmp_path / "lists", val_share=0.5)
    listed = done.lists["train"]
    swapped = replace(TASK, labels=("glad", "calm"))
    LabelledClips.open(listed, TASK, Sampling())
    LabelledClips.open(listed, replace(TASK, labels=("Calm", "Glad", "wild")), Sampling())
    with pytest.raises(SourceError, match=r"indices into calm, glad .*order here is glad, calm"):
        LabelledClips.open(listed, swapped, Sampling())
    named = listed.read_text().replace(" 0\n", " calm\n").replace(" 1\n", " glad\n")
    listed.write_text(named)  # names need no order
    assert LabelledClips.open(listed, swapped, Sampling()).targets.max() == 1


@pytest.mark.parametrize("content", [b"", b"no video", b"\0" * 5000, None])
def test_an_unreadable_video_is_named(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "bad.mp4").write_bytes(content)
    with pytest.raises(UnreadableClip, match=r"bad\.mp4' cannot be read") as caught:
        clips_of(tmp_path / "bad.mp4").read(0)
    copy = pickle.loads(pickle.dumps(caught.value))  # from a loader's process
    assert str(copy) == str(caught.value)
    assert copy.path.endswith("bad.mp4")


def test_a_cut_video_is_unreadable(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    whole = write_video(tmp_path / "whole.mp4", [40 * i for i in range(50)], g="10")
    front = tmp_path / "front.mp4"  # its index before its frames, so that a cut one opens
    with (
        av.open(str(whole)) as source,
        av.open(str(front), "w", options={"movflags": "faststart"}) as target,
    ):
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                target.mux(packet)
    content = front.read_bytes()
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(content[: len(content) * 7 // 10])
    assert len(clips_of(front, frames=2).read(0)) == 2
    with pytest.raises(UnreadableClip, match=r"cut\.mp4' cannot be read: cut off after"):
        clips_of(cut, frames=2).read(0)


def test_unreadable_images_and_folders_are_named(tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no image")
    (tmp_path / "empty").mkdir()
    folder = write_frames(tmp_path / "f", 3)
    (folder / "1.png").write_bytes(b"no image")
    with pytest.raises(UnreadableClip, match=r"bad\.png"):
        clips_of(tmp_path / "bad.png").read(0)
    with pytest.raises(UnreadableClip, match="holds no images"):
        clips_of(tmp_path / "empty").read(0)
    with pytest.raises(UnreadableClip, match=r"f' cannot be read: 1\.png: not a readable"):
        clips_of(folder, frames=3, stride=1).read(0)
    with pytest.raises(UnreadableClip, match="no such file"):
        clips_of(tmp_path / "gone.jpg").read(0)


def test_unreadable_items_are_counted_once_and_limited() -> None:
    log = Unreadable(total=2000)
    assert log.limit == 20
    for _ in range(3):
        log.add(UnreadableClip("a.mp4", "damaged"))
    assert log.reasons == {"a.mp4": "damaged"}
    assert str(log) == "Unreadable: 'a.mp4' (damaged)."
    for number in range(19):
        log.add(UnreadableClip(f"{number}.mp4", "damaged"))
    with pytest.raises(SourceError, match=r"21 of 2000 items.*limit of 20.*'a\.mp4'"):
        log.add(UnreadableClip("b.mp4", "damaged"))
    assert Unreadable(total=100).limit == 10
    assert Unreadable(total=6).limit == 3
    none = Unreadable(total=2000, share=0)
    assert none.limit == 0
    with pytest.raises(SourceError, match=r"1 of 2000 items cannot be read.*limit of 0"):
        none.add(UnreadableClip("a.mp4", "damaged"))


def test_a_folder_with_several_damaged_frames_is_one_item(tmp_path: Path) -> None:
    folder = write_frames(tmp_path / "f", 6)
    for number in range(4):
        (folder / f"{number}.png").write_bytes(b"no image")
    log, clips = Unreadable(total=4), clips_of(folder, frames=2, stride=1)
    for seed in range(9):
        try:
            clips.read(0, np.random.default_rng(seed))
        except UnreadableClip as error:
            log.add(error)
    assert list(log.reasons) == [str(folder)]


def test_missing_files_are_found_before_a_run(tmp_path: Path) -> None:
    write_frames(tmp_path / "good", 2)
    (tmp_path / "empty").mkdir()
    (tmp_path / "zero.mp4").touch()
    (tmp_path / "bad.png").write_bytes(b"no image at all")  # is found when it is read
    (tmp_path / "loop").symlink_to("loop")

    def clips_named(*names: str) -> LabelledClips:
        items = [Item(tmp_path / name) for name in names]
        return LabelledClips(items, np.zeros(len(items), int), Sampling())

    wrong = ("empty", "zero.mp4", "gone.mp4", "loop")
    clips_named("good", "bad.png", *wrong, *wrong).require_files(0.01)  # each counts once: half
    with pytest.raises(SourceError) as caught:
        clips_named("good", "bad.png", *wrong).require_files(0.5)
    text = str(caught.value)
    assert "4 of 6 items cannot be read, more than the limit of 3" in text
    for reason in (
        "empty' (an empty folder)",
        "(an empty file)",
        "gone.mp4' (no such file",
        "loop",
    ):
        assert reason in text
    assert "good" not in text and "bad.png" not in text


def test_impossible_sampling_is_refused() -> None:
    with pytest.raises(ValueError, match="start at 1"):
        Sampling(frames=0)
    with pytest.raises(ValueError, match="positive"):
        Sampling(spacing_s=0)
