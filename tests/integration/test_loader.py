"""The DALI graph on real encoded video, against PyAV and numpy."""

import struct
import threading
from dataclasses import replace
from itertools import islice

import av
import numpy as np
import pytest
import torch

from cpd.clip import ClipSpec
from cpd.config import Augment
from cpd.errors import VideoError
from cpd.video import read_clip, read_frames
from cpd_train.loader import DECODED_BYTES, ClipLoader
from cpd_train.prepare import audit
from cpd_train.splits import Found

SPEC = ClipSpec(frames=4, resize=24, crop=(16, 16))
CPU = torch.device("cpu")


def moving_square(rng, frames=11, height=36, width=48):
    """A bright square on a smooth background, somewhere else in every frame."""
    ramp = np.linspace(20, 120, width) + np.linspace(0, 60, height)[:, None]
    video = np.repeat(ramp[None, ..., None], frames, 0).repeat(3, -1)
    for t in range(frames):
        top, left = rng.integers(0, height - 10), rng.integers(0, width - 10)
        video[t, top : top + 10, left : left + 10] = rng.integers(100, 255, 3)
    return video.astype(np.uint8)


@pytest.fixture
def clips(write_video):
    """Six clips of as many codecs and kinds, three of which DALI decodes itself on a CPU."""
    rng = np.random.default_rng(0)
    paths = [
        write_video(moving_square(rng), "mjpeg", "a.avi"),
        write_video(moving_square(rng, frames=3), "libvpx", "b.webm"),
        write_video(moving_square(rng, height=48, width=36), "libvpx-vp9", "c.webm"),
        write_video(moving_square(rng, frames=30), "libx264", "d.mp4"),
        write_video(moving_square(rng), "mpeg4", "e.avi"),
        write_video(moving_square(rng), "libx264", "f.mp4", rotation=90),
    ]
    clips, broken = audit([Found(path, "xy"[n % 2], "train", str(path)) for n, path in enumerate(paths)])
    assert not broken
    return clips


def loader_of(clips, cache_bytes=0, batch_size=4):
    return ClipLoader(clips, ("x", "y"), SPEC, batch_size, CPU, cache_bytes)


def all_frames(batches):
    return torch.cat([batch.frames for batch in batches]).numpy()


@pytest.mark.parametrize("content", [b"", b"no video at all"])
def test_a_clip_that_was_replaced_since_is_named(clips, content):
    loader = loader_of(clips)
    assert loader.reads(1), "DALI decodes it, and names no clip"
    clips[1].path.write_bytes(content)
    with pytest.raises(VideoError, match=r"b\.webm: (is empty|cannot be opened as a video)"):
        list(loader.evaluate())


def test_every_codec_goes_through_one_graph_in_order(clips):
    batches = list(loader_of(clips).evaluate())
    assert [batch.frames.shape for batch in batches] == [(4, *SPEC.shape), (2, *SPEC.shape)]
    assert all(batch.frames.dtype == torch.uint8 for batch in batches)
    assert [row for batch in batches for row, _ in batch.views] == [0, 1, 2, 3, 4, 5]
    assert torch.cat([batch.labels for batch in batches]).argmax(1).tolist() == [0, 1, 0, 1, 0, 1]


def test_dali_decodes_the_same_pixels_as_pyav(clips):
    """With nothing to resize or crop, DALI's own decoder and PyAV's give the same bytes."""
    for clip in clips[:3]:
        whole = ClipSpec(frames=4, resize=(clip.height, clip.width), crop=(clip.height, clip.width))
        (batch,) = ClipLoader([clip], ("x", "y"), whole, 1, CPU).evaluate()
        count = len(clip.times_s)
        indices = np.minimum(((np.arange(4) + 0.5) / 4 * count).astype(np.int64), count - 1)
        np.testing.assert_array_equal(batch.frames[0].numpy(), read_frames(clip.path, indices))


def test_large_frames_are_held_a_few_clips_at_a_time(clips, monkeypatch):
    """A batch of 32 clips of 1080p would take 8 GB at once."""
    at_once = all_frames(loader_of(clips).evaluate())
    piece, pieces = ClipLoader._piece, []

    def noted(self, views, size):
        pieces.append([view.row for view in views])
        return piece(self, views, size)

    monkeypatch.setattr(ClipLoader, "_piece", noted)
    monkeypatch.setitem(DECODED_BYTES, "cpu", 2 * 4 * 36 * 48 * 3)
    np.testing.assert_array_equal(all_frames(loader_of(clips).evaluate()), at_once)
    assert pieces == [[0, 1], [2, 3], [4, 5]]
    monkeypatch.setitem(DECODED_BYTES, "cpu", 1)
    np.testing.assert_array_equal(all_frames(loader_of(clips).evaluate()), at_once)


def test_training_and_serving_see_the_same_clip(clips):
    trained = all_frames(loader_of(clips).evaluate()).astype(int)
    for clip, seen in zip(clips, trained, strict=True):
        assert np.abs(read_clip(clip.path, SPEC) - seen).mean() < 1, clip.path.name


@pytest.mark.parametrize("codec", ["libvpx", "libvpx-vp9", "mjpeg"])
@pytest.mark.parametrize("sizes", [((36, 48), (72, 96)), ((72, 96), (36, 48)), ((48, 64), (91, 53))])
@pytest.mark.parametrize("spec", [SPEC, ClipSpec(frames=4, resize=(24, 36), crop=(16, 24))], ids=["side", "stretched"])
def test_frames_of_several_sizes_are_loaded_as_they_are_served(write_video, tmp_path, codec, sizes, spec):
    """As browsers record a call, or a phone that is turned: DALI would fail, or read each frame as if it were as large
    as the first."""
    rng, path = np.random.default_rng(0), tmp_path / "call.mkv"
    with av.open(str(path), "w") as call:
        stream = None
        for part, (height, width) in enumerate(sizes):
            frames = moving_square(rng, height=height, width=width)
            with av.open(str(write_video(frames, codec, f"{part}.mkv"))) as container:
                stream = stream or call.add_stream_from_template(container.streams.video[0])
                for packet in container.demux(video=0):
                    if packet.size:
                        packet.pts = packet.dts = packet.pts + part * len(frames) * 40
                        packet.stream = stream
                        call.mux(packet)
    (clip,), _ = audit([Found(path, "x", "train", "")])
    assert not clip.plain
    assert len(clip.times_s) == 22
    for cache_bytes in (0, 1 << 20):
        (batch,) = ClipLoader([clip], ("x",), spec, 1, CPU, cache_bytes).evaluate()
        np.testing.assert_array_equal(batch.frames[0].numpy(), read_clip(path, spec))
    augment = Augment(crop_scale=(1.0, 1.0))
    (batch,) = ClipLoader([clip], ("x",), spec, 1, CPU).train(augment, 0, 0)
    assert batch.frames.shape == (1, *spec.shape)


def of_jpegs(path, jpegs):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=25, width=48, height=36, pix_fmt="yuvj420p")
        for number, jpeg in enumerate(jpegs):
            packet = av.Packet(jpeg)
            packet.stream, packet.pts, packet.dts, packet.is_keyframe = stream, number, number, True
            container.mux(packet)
    return path


def test_what_dali_would_read_otherwise_is_loaded_as_it_is_served(write_video, tmp_path):
    """It believes the header about the number of frames, where two files were put together, and knows no EXIF."""
    whole = write_video(moving_square(np.random.default_rng(0)), "mjpeg")
    twice = tmp_path / "twice.avi"
    twice.write_bytes(whole.read_bytes() * 2)
    with av.open(str(whole)) as container:
        jpegs = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    tiff = b"MM\0*" + struct.pack(">IHHHIHxxI", 8, 1, 0x112, 3, 1, 3, 0)  # orientation 3: upside down
    exif = b"\xff\xe1" + struct.pack(">H6s", len(tiff) + 8, b"Exif") + tiff
    turned = of_jpegs(tmp_path / "turned.avi", [*jpegs, *(jpeg[:2] + exif + jpeg[2:] for jpeg in jpegs)])
    for path in (twice, turned):
        (clip,), _ = audit([Found(path, "x", "train", "")])
        assert len(clip.times_s) == 22
        np.testing.assert_array_equal(all_frames(loader_of([clip]).evaluate())[0], read_clip(path, SPEC))


def test_a_container_that_dali_does_not_read_is_decoded_outside(write_video):
    path = write_video(moving_square(np.random.default_rng(0)), "libvpx-vp9", "flash.flv")
    (clip,), _ = audit([Found(path, "x", "train", "")])
    seen = all_frames(loader_of([clip]).evaluate())[0].astype(int)
    assert np.abs(read_clip(path, SPEC) - seen).mean() < 1


def test_a_folder_of_images_is_loaded_as_the_video_made_of_them(clips, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    with av.open(str(clips[0].path)) as container:
        for number, packet in enumerate(container.demux(video=0)):
            if packet.size:
                (folder / f"{number:05d}.jpg").write_bytes(bytes(packet))
    (images,), broken = audit([Found(folder, "x", "train", "")])
    assert not broken
    joined, apart = (all_frames(loader_of([clip]).evaluate()) for clip in (clips[0], images))
    np.testing.assert_array_equal(joined, apart)


def test_a_cache_changes_nothing_that_is_seen(clips):
    augment = Augment(flip=True, crop_scale=(0.6, 1.0), brightness=0.2, contrast=0.2, erase=0.5)
    cached, plain = loader_of(clips, cache_bytes=10**7), loader_of(clips)
    for epoch in range(2):
        np.testing.assert_array_equal(
            all_frames(cached.train(augment, 0, epoch)), all_frames(plain.train(augment, 0, epoch))
        )
    for seed, epoch in [(0, 1), (0, 2), (0, 3), (1, 1), (0, 4), (1, 2), (1, 3)]:
        arguments = (augment, seed, epoch, 2)
        np.testing.assert_array_equal(all_frames(cached.train(*arguments)), all_frames(plain.train(*arguments)))
    np.testing.assert_array_equal(all_frames(cached.evaluate()), all_frames(plain.evaluate()))


def test_a_view_that_is_met_again_is_not_made_again(clips, monkeypatch):
    loader, augment = loader_of(clips, cache_bytes=10**7, batch_size=6), Augment(flip=True)

    def views_of(epoch):
        (batch,) = loader.train(augment, 0, epoch, repeat=2)
        return dict(zip(batch.views, batch.frames.numpy(), strict=True))

    made = views_of(1) | views_of(2)
    monkeypatch.setattr(loader, "_through_graph", None)
    met_again = views_of(3) | views_of(4)
    assert made.keys() == met_again.keys()
    assert all((made[key] == met_again[key]).all() for key in made)


def test_a_full_cache_decodes_the_rest(clips):
    one_clip = 11 * 24 * 32 * 3
    np.testing.assert_array_equal(
        all_frames(loader_of(clips, cache_bytes=one_clip).evaluate()), all_frames(loader_of(clips).evaluate())
    )


def test_mirrors_crops_and_light_do_what_their_numbers_say(clips):
    """A view's numbers, carried out in numpy: exact but for rounding."""
    augment = Augment(flip=True, brightness=0.5)
    clip = replace(clips[0], label="x")
    loader = loader_of([clip] * 8, batch_size=8)
    from cpd_train.sampling import training_views

    views = training_views(loader.clips, loader.labels, SPEC, augment, 3, 0)
    (batch,) = loader.train(augment, 3, 0)
    (still,) = ClipLoader([clip], ("x", "y"), ClipSpec(frames=11, resize=24, crop=(24, 24)), 1, CPU).evaluate()
    assert {view.mirror for view in views} == {True, False}
    for view, seen in zip(views, batch.frames.numpy(), strict=True):
        # the plain loader crops the middle 24 of 32 columns; compare what both see
        top, left, bottom, right = (int(edge) for edge in view.box)
        low, high = max(left, 4), min(right, 28)
        expected = still.frames[0].numpy()[view.indices, top:bottom, low - 4 : high - 4].astype(float) * view.brightness
        seen = seen[:, :, ::-1] if view.mirror else seen
        np.testing.assert_allclose(seen[:, :, low - left : high - left], expected.clip(0, 255), atol=1)


def test_what_is_erased_is_grey_in_every_frame_and_all_else_as_it_was(clips):
    loader, augment = loader_of(clips * 2, batch_size=12), Augment(flip=True, brightness=0.2)
    from cpd_train.sampling import training_views

    (plain,) = loader.train(augment, 0, 0)
    erasing = augment.model_copy(update={"erase": 0.5})
    (erased,) = loader.train(erasing, 0, 0)
    views = training_views(loader.clips, loader.labels, SPEC, erasing, 0, 0)
    assert 0 < sum(any(view.hole) for view in views) < 12
    for view, before, after in zip(views, plain.frames.numpy(), erased.frames.numpy(), strict=True):
        top, left, height, width = view.hole
        before[:, top : top + height, left : left + width] = 127
        np.testing.assert_array_equal(after, before)


def test_the_next_epoch_is_begun_while_the_one_before_is_judged(clips, monkeypatch):
    loader, apart, augment = loader_of(clips), loader_of(clips), Augment(flip=True)
    made, run = threading.Semaphore(0), loader._run

    def counted(*arguments):
        batch = run(*arguments)
        made.release()
        return batch

    monkeypatch.setattr(loader, "_run", counted)
    together = loader.train_all(augment, 0, 3, 0, 0.0)
    for epoch in range(3):
        (seen,) = islice(together, 1)
        assert made.acquire(timeout=60)
        assert epoch == 2 or made.acquire(timeout=60), "nothing was made ahead"
        made.release()
        (wanted,) = apart.train(augment, 0, epoch)
        np.testing.assert_array_equal(seen.frames.numpy(), wanted.frames.numpy())
        assert seen.views == wanted.views
    assert next(together, None) is None


def test_an_epoch_can_be_left_early_and_errors_come_through(clips):
    loader = loader_of(clips, batch_size=1)
    first = next(loader.evaluate())
    assert first.views == [(0, 0)]
    gone = loader_of([replace(clips[3], path=clips[3].path.with_name("gone.mp4"))])
    with pytest.raises(Exception, match=r"gone.mp4: no such file"):
        list(gone.evaluate())
