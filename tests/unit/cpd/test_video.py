from __future__ import annotations

import os
import struct
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import NoReturn

import av
import numpy as np
import pytest
from av.stream import Disposition
from numpy.typing import NDArray

from cpd import container, packets, video
from cpd.clip import ClipSpec, segment_indices
from cpd.container import open_file
from cpd.errors import VideoError
from cpd.frame import fit
from cpd.scaler import FLAGS, Scaler
from cpd.stopwatch import Stopwatch

SPEC = ClipSpec(frames=4, resize=32, crop=(32, 32))
STEP = 8
"""Grey levels between neighbouring frames of a ramp; more than any codec here changes a flat frame by."""
WriteVideo = Callable[..., Path]


def ramp(count: int, height: int = 32, width: int = 48) -> NDArray[np.uint8]:
    """Frames of one grey each, so that a decoded frame tells which one it was."""
    return np.broadcast_to(
        (20 + STEP * np.arange(count, dtype=np.uint8))[:, None, None, None], (count, height, width, 3)
    )


def shown(frames: NDArray[np.uint8]) -> list[int]:
    """Which frames of a ramp these are."""
    return [round((float(frame.mean()) - 20) / STEP) for frame in frames]


def outcome(path: Path) -> str:
    """Empty where the video gives a clip, else the error."""
    try:
        clip = video.read_clip(path, SPEC)
    except VideoError as error:
        return str(error)
    assert clip.shape == SPEC.shape
    return ""


def test_a_codec_that_nvdec_does_not_read_is_an_error_and_not_decoded_elsewhere(
    write_video: WriteVideo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(container, "enter_primary_context", lambda: None)
    path = write_video(ramp(3), "ffv1", "lossless.mkv")
    with pytest.raises(VideoError, match="with NVDEC: it reads none of its streams"), open_file(path, "nvdec"):
        pass


def test_a_profile_that_nvdec_does_not_decode_is_not_blamed_on_the_video(
    write_video: WriteVideo, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> NoReturn:
        raise av.PermissionError(1, "Operation not permitted")  # what FFmpeg says where no format is left to decode to

    path = write_video(ramp(3), "libx264")
    monkeypatch.setattr(video, "open_file", lambda path, decoder: open_file(path))
    for name in ("decode_at", "frames_of"):
        monkeypatch.setattr(video, name, refused)
    message = r"NVDEC decodes no frame of it: Operation not permitted \(use --decoder cpu"
    with pytest.raises(VideoError, match=message):
        video.read_windows(path, SPEC, 1, decoder="nvdec")


@pytest.mark.parametrize(
    ("codec", "suffix", "options"),
    [
        ("mjpeg", ".avi", {}),
        ("mpeg4", ".avi", {"bf": "2", "g": "6"}),
        ("libvpx", ".webm", {"auto-alt-ref": "1", "lag-in-frames": "8"}),
        ("libvpx-vp9", ".webm", {}),
        ("libx264", ".mp4", {"bf": "3", "g": "5"}),
        ("libx264", ".mkv", {"bf": "3", "g": "5", "x264-params": "open-gop=1"}),
        ("libx264", ".ts", {"bf": "2", "g": "100"}),
        ("libx264", ".flv", {"bf": "0"}),
    ],
)
@pytest.mark.parametrize("held_bytes", [packets.HELD_BYTES, 0], ids=["packets held", "packets read twice"])
def test_the_middle_frame_of_each_segment_is_read(
    write_video: WriteVideo,
    monkeypatch: pytest.MonkeyPatch,
    codec: str,
    suffix: str,
    options: dict[str, str],
    held_bytes: int,
) -> None:
    monkeypatch.setattr(packets, "HELD_BYTES", held_bytes)
    path = write_video(ramp(26), codec, f"clip{suffix}", options=options)
    assert len(video.probe(path).times_s) == 26
    clip = video.read_clip(path, SPEC)
    assert clip.shape == SPEC.shape
    assert clip.dtype == np.uint8
    assert shown(clip) == segment_indices(np.arange(26) / 25, 4).tolist() == [3, 9, 16, 22]


@pytest.mark.parametrize("gop", ["1", "4", "25"])
def test_starting_at_keyframes_gives_the_pixels_of_decoding_it_all(write_video: WriteVideo, gop: str) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (30, 48, 64, 3), dtype=np.uint8)
    path = write_video(noise, "libx264", options={"bf": "3", "g": gop})
    indices = segment_indices(np.arange(30) / 25, 4)
    whole = np.stack(
        [frame.to_ndarray(format="rgb24", interpolation=FLAGS) for frame in av.open(str(path)).decode(video=0)]
    )
    whole = whole[indices]
    np.testing.assert_array_equal(video.read_frames(path, indices), whole)
    whole_spec = ClipSpec(frames=4, resize=(48, 64), crop=(48, 64))
    np.testing.assert_array_equal(video.read_clip(path, whole_spec), whole)


@pytest.mark.parametrize(
    ("codec", "options"),
    [
        ("libx264", {"x264-params": "bframes=3:keyint=4"}),
        ("libx264", {"x264-params": "bframes=3:keyint=25"}),
        # after a keyframe come frames that are shown before it
        ("libx264", {"x264-params": "bframes=3:b-adapt=0:keyint=8:min-keyint=8:scenecut=0:open-gop=1"}),
        ("mpeg2video", {"bf": "2", "g": "6"}),
    ],
    ids=["keyframes", "a keyframe", "open groups", "open groups of MPEG-2"],
)
@pytest.mark.parametrize("wanted", [[0], [29], [2, 3, 11, 27], [14, 15, 16], [27, 5, 5], list(range(30))])
def test_packets_alone_lead_to_every_frame(
    write_video: WriteVideo, codec: str, options: dict[str, str], wanted: list[int]
) -> None:
    """``read_clip`` would find those that they do not lead to by decoding it all."""
    noise = np.random.default_rng(0).integers(0, 255, (30, 48, 64, 3), dtype=np.uint8)
    path = write_video(noise, codec, "clip.mp4" if codec == "libx264" else "clip.ts", options=options)
    with open_file(path) as (container, stream):
        index = packets.PacketIndex.of(container, stream)
        assert index is not None
        assert index.packets is not None
        found = packets.decode_at(stream, index, index.packets, np.array(wanted), lambda frame: frame.to_ndarray())
    assert found is not None
    whole = np.stack([frame.to_ndarray() for frame in av.open(str(path)).decode(video=0)])
    np.testing.assert_array_equal(found, whole[wanted])


def test_packets_are_held_up_to_a_size(write_video: WriteVideo, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(ramp(26), "mjpeg")
    with av.open(str(path)) as source:
        size_bytes = sum(packet.size for packet in source.demux(video=0))
    for held_bytes, held in ((size_bytes, True), (size_bytes - 1, False)):
        monkeypatch.setattr(packets, "HELD_BYTES", held_bytes)
        with open_file(path) as (source, stream):
            index = packets.PacketIndex.of(source, stream)
        assert index is not None
        assert (index.packets is not None) == held


def test_a_scaler_follows_frames_that_change_size_and_format() -> None:
    rng = np.random.default_rng(0)
    kept = Scaler()
    for height, width, form in ((64, 96, "rgb24"), (90, 70, "yuv420p"), (64, 96, "yuv422p"), (64, 96, "gray")) * 2:
        frame = av.VideoFrame.from_ndarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8)).reformat(
            format=form
        )
        np.testing.assert_array_equal(fit(frame, SPEC, kept), fit(frame, SPEC, Scaler()))


def test_of_keyframes_alone_only_the_wanted_are_decoded(write_video: WriteVideo) -> None:
    path = write_video(ramp(26), "mjpeg")
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        index = packets.PacketIndex.of(container, stream)
        assert index is not None
        assert index.packets is not None
        seen: list[int] = []
        for number in range(26):
            assert index.start_of(int(index.shown_pts[number])) == number
        packets.decode_at(
            stream, index, index.packets, np.array([3, 9, 9, 22]), lambda frame: seen.append(frame.pts) or np.empty(0)
        )
    assert seen == [3, 9, 22]


def test_a_recording_that_begins_between_keyframes_begins_with_the_first(
    write_video: WriteVideo, tmp_path: Path
) -> None:
    late = tmp_path / "late.ts"
    whole = write_video(ramp(26), "libx264", "whole.ts", options={"g": "4", "sc_threshold": "0"})
    with av.open(str(whole)) as source, av.open(str(late), "w") as copy:
        stream = copy.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(source.demux(video=0)):
            if packet.size and number:
                packet.stream = stream
                copy.mux(packet)
    times_s = video.probe(late).times_s
    assert len(times_s) == 22
    assert shown(video.read_clip(late, SPEC)) == shown(video.read_frames(late, segment_indices(times_s, 4)))


def test_packets_that_are_wrongly_marked_as_keyframes_are_not_begun_at(write_video: WriteVideo) -> None:
    still = np.random.default_rng(0).integers(0, 255, (144, 176, 3), dtype=np.uint8)
    path = write_video(np.stack([still] * 26), "h263", "clip.avi")
    with open_file(path) as (source, stream):
        assert all(packet.is_keyframe for packet in packets.frame_packets(source.demux(stream)))
    spec = ClipSpec(frames=4, resize=(144, 176), crop=(144, 176))
    whole = video.read_frames(path, segment_indices(np.arange(26) / 25, 4))
    np.testing.assert_array_equal(video.read_clip(path, spec), whole)


def test_frames_shown_before_their_keyframe_are_decoded_from_the_one_before() -> None:
    # Decoding order I0 P3 B1 B2 | I6 B4 B5: B4 may refer to P3, so it cannot be decoded from I6 on.
    pts = np.array([0, 3, 1, 2, 6, 4, 5])
    keyframe = np.array([True, False, False, False, True, False, False])
    index = packets.PacketIndex(pts, keyframe, np.sort(pts), np.sort(pts) / 25, None)
    assert [index.start_of(number) for number in range(7)] == [0, 0, 0, 0, 0, 0, 4]


def test_variable_rate_is_sampled_by_time(write_video: WriteVideo) -> None:
    times_ms = [*range(0, 1000, 100), 1000, 2000, 3000]
    path = write_video(ramp(13), "libvpx-vp9", times_ms=times_ms)
    assert shown(video.read_clip(path, SPEC)) == [3, 10, 10, 11]


def test_recordings_put_together_are_one_video(write_video: WriteVideo, tmp_path: Path) -> None:
    parts = np.split(ramp(24), 3)
    files = [write_video(np.repeat(part, 5, 0), "mpeg2video", f"{n}.ts") for n, part in enumerate(parts)]
    path = tmp_path / "all.ts"
    path.write_bytes(b"".join(file.read_bytes() for file in files))  # each begins at the same time
    times_s = video.probe(path).times_s
    np.testing.assert_allclose(np.diff(times_s), 1 / 25, atol=1e-3)
    assert len(times_s) == 120
    assert shown(video.read_clip(path, SPEC)) == [3, 9, 15, 21]
    assert video.duration_s(path) == pytest.approx(120 / 25)


def test_frames_without_a_time_follow_the_one_before(write_video: WriteVideo) -> None:
    path = write_video(ramp(26), "libx264", "small.mpg", options={"g": "26"})
    with open_file(path) as (source, stream):
        stored = [frame.pts is not None for frame in source.decode(stream)]
    assert stored[0]
    assert not all(stored)
    np.testing.assert_allclose(np.diff(video.probe(path).times_s), 1 / 25, atol=1e-3)
    assert shown(video.read_clip(path, SPEC)) == [3, 9, 16, 22]


def test_times_guessed_in_another_order_are_no_variable_rate(write_video: WriteVideo) -> None:
    path = write_video(ramp(26), "libx264", "clip.avi", options={"bf": "3", "sc_threshold": "0"})
    with open_file(path) as (source, stream):
        assert (np.diff([frame.pts for frame in source.decode(stream)]) < 0).any()
    np.testing.assert_allclose(np.diff(video.probe(path).times_s), 1 / 25)
    assert shown(video.read_clip(path, SPEC)) == [3, 9, 16, 22]


def test_streams_that_appear_while_a_recording_is_read_are_no_trouble(write_video: WriteVideo, tmp_path: Path) -> None:
    programme = write_video(np.repeat(ramp(26), 2, 0), "mpeg2video", "programme.ts").read_bytes()
    sound = tmp_path / "sound.ts"
    with av.open(str(sound), "w") as container:
        for stream in [container.add_stream("mp2", rate=48000) for _ in range(32)]:
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1152), np.int16), format="s16", layout="mono")
            frame.rate = 48000
            container.mux([*stream.encode(frame), *stream.encode(None)])
    path, nothing = tmp_path / "recording.ts", (b"\x47\x1f\xff\x10" + bytes(184)) * 2000
    # FFmpeg looks at the first 5 MB and the last 250 kB of a file when it opens it.
    path.write_bytes(programme + nothing * 15 + sound.read_bytes() + nothing + programme)
    with open_file(path) as (source, _):
        assert len(source.streams) == 1
    assert shown(video.read_clip(path, SPEC)) == [6, 19, 6, 19]


def test_rotation_is_applied(write_video: WriteVideo) -> None:
    pixels = np.zeros((3, 32, 64, 3), dtype=np.uint8)
    pixels[:, :, :32] = 255  # white on the left
    path = write_video(pixels, "libx264", rotation=90)
    info = video.probe(path)
    assert (info.height, info.width, info.rotation) == (64, 32, 90)
    frame = video.read_frames(path, np.array([0]))[0]
    assert frame.shape == (64, 32, 3)
    assert frame[40:].mean() > 250  # turned counter-clockwise: left goes down
    assert frame[:24].mean() < 5
    clip = video.read_clip(path, ClipSpec(frames=1, resize=(64, 32), crop=(64, 32)))
    np.testing.assert_allclose(clip[0].astype(int), frame, atol=1)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_is_turned_and_mirrored_as_its_exif_says(
    write_video: WriteVideo, tmp_path: Path, orientation: int
) -> None:
    stored = np.zeros((32, 64, 3), np.uint8)
    stored[:16, :32], stored[:16, 32:], stored[16:, :32] = 240, 160, 80
    jpeg = write_video(stored[None], "mjpeg", "photo.mjpeg").read_bytes()
    tiff = b"MM\0*" + struct.pack(">IHHHIHxxI", 8, 1, 0x112, 3, 1, orientation, 0)
    (tmp_path / "photos").mkdir()
    photo = tmp_path / "photos" / "0001.jpg"
    photo.write_bytes(jpeg[:2] + b"\xff\xe1" + struct.pack(">H6s", len(tiff) + 8, b"Exif") + tiff + jpeg[2:])
    seen = stored.transpose(1, 0, 2) if orientation > 4 else stored
    down, right = {2: (1, -1), 3: (-1, -1), 4: (-1, 1), 6: (1, -1), 7: (-1, -1), 8: (-1, 1)}.get(orientation, (1, 1))
    for path in (photo, photo.parent):
        frame = video.read_frames(path, np.array([0]))[0]
        assert np.abs(frame.astype(int) - seen[::down, ::right]).mean() < 8


def test_windows_are_parts_of_the_video(write_video: WriteVideo) -> None:
    path = write_video(ramp(24), "libx264", options={"g": "6"})
    clips = video.read_windows(path, SPEC, 3)
    assert clips.shape == (3, *SPEC.shape)
    assert [shown(clip) for clip in clips] == [[1, 3, 5, 7], [9, 11, 13, 15], [17, 19, 21, 23]]


def test_one_frame_is_a_clip(write_video: WriteVideo) -> None:
    path = write_video(ramp(1), "libx264")
    assert shown(video.read_clip(path, SPEC)) == [0, 0, 0, 0]


def test_the_watch_is_told_where_the_time_went(write_video: WriteVideo) -> None:
    watch = Stopwatch()
    video.read_clip(write_video(ramp(26)), SPEC, watch)
    assert set(watch.spent_s) == {"open", "decode", "resize"}
    assert all(spent_s > 0 for spent_s in watch.spent_s.values())


@pytest.mark.parametrize("codec", ["mpeg4", "libx264", "mjpeg"])
def test_a_video_cut_off_is_read_up_to_its_damage(write_video: WriteVideo, codec: str) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (26, 64, 64, 3), dtype=np.uint8)
    path = write_video(noise, codec, "clip.mkv", options={"g": "4"})
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    info = video.probe(path)
    assert 10 <= len(info.times_s) < 26
    clip = video.read_clip(path, ClipSpec(frames=4, resize=64, crop=(64, 64)))
    indices = segment_indices(info.times_s, 4)
    np.testing.assert_allclose(clip.astype(int), video.read_frames(path, indices), atol=1)


def test_flipped_bits_give_an_answer_or_one_line(write_video: WriteVideo) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (20, 64, 64, 3), dtype=np.uint8)
    path = write_video(noise, "libx264", options={"g": "5"})
    good = path.read_bytes()
    generator = np.random.default_rng(1)
    for _ in range(25):
        bad = bytearray(good)
        for position in generator.integers(0, len(bad), 20):
            bad[position] ^= 1 << int(generator.integers(8))
        path.write_bytes(bytes(bad))
        assert "\n" not in outcome(path)


def test_the_size_may_change_within_a_video(write_video: WriteVideo, tmp_path: Path) -> None:
    both = tmp_path / "both.h264"
    parts = [write_video(ramp(6, *size), "libx264", f"{size}.h264") for size in ((32, 48), (64, 64))]
    both.write_bytes(b"".join(part.read_bytes() for part in parts))
    assert shown(video.read_clip(both, SPEC)) == [1, 4, 1, 4]
    assert shown(video.read_middles(both, np.array([0, 11]), SPEC)) == [0, 5]


def test_too_elongated_frames_are_refused(write_video: WriteVideo) -> None:
    path = write_video(ramp(2, 2, 8192), "mjpeg")
    with pytest.raises(VideoError, match=r"clip\.avi: a frame of 8192x2 pixels is too elongated"):
        video.read_clip(path, ClipSpec(frames=1, resize=256, crop=(224, 224)))


def test_a_name_that_looks_like_a_protocol_is_a_file(write_video: WriteVideo, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(ramp(4), name="http:clip.avi")
    monkeypatch.chdir(path.parent)
    assert video.read_clip(Path("http:clip.avi"), SPEC).shape == SPEC.shape


@pytest.mark.parametrize(
    ("codec", "suffix"), [("libx264", ".mp4"), ("libvpx-vp9", ".webm"), ("mjpeg", ".avi"), ("libx264", ".h264")]
)
def test_duration(write_video: WriteVideo, codec: str, suffix: str) -> None:
    path = write_video(ramp(26), codec, f"clip{suffix}")
    assert video.duration_s(path) == pytest.approx(26 / 25, abs=0.05)


@pytest.mark.parametrize(("hflip", "vflip"), [(True, False), (False, True)])
@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_a_mirrored_video_is_shown_as_it_was_seen(tmp_path: Path, rotation: int, hflip: bool, vflip: bool) -> None:
    seen = np.zeros((32, 32, 3), np.uint8)
    seen[:16, :16], seen[:16, 16:], seen[16:, :16] = 240, 160, 80
    turned_back = np.rot90(np.flipud(seen) if vflip else np.fliplr(seen), -rotation // 90)
    path = tmp_path / "selfie.mp4"
    with av.open(str(path), "w") as made:
        stream = made.add_stream("libx264", rate=25)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        stream.set_display_rotation(rotation, hflip=hflip, vflip=vflip)  # which mirrors after it has rotated
        for _ in range(4):
            made.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(turned_back), format="rgb24")))
        made.mux(stream.encode(None))
    assert video.probe(path).mirrored
    assert np.abs(video.read_clip(path, SPEC)[0].astype(int) - seen).mean() < 8


def test_a_playlist_of_files_is_refused(write_video: WriteVideo, tmp_path: Path) -> None:
    segment = write_video(ramp(10), "libx264", "secret.ts")
    path = tmp_path / "clip.mp4"
    path.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{segment.name}\n#EXT-X-ENDLIST\n")
    with pytest.raises(VideoError, match=r"clip\.mp4: "):
        video.read_clip(path, SPEC)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("clip.mp4", "ffconcat version 1.0\nfile pipe.ts\n"),
        ("clip.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\npipe.ts\n"),
        ("clip.mp4", "# VobSub index file, v7\n"),
    ],
)
def test_a_playlist_opens_nothing_before_it_is_refused(tmp_path: Path, name: str, text: str) -> None:
    for pipe in ("pipe.ts", "clip.sub"):
        os.mkfifo(tmp_path / pipe)  # whoever opened it would wait for ever
    (tmp_path / name).write_text(text)
    with pytest.raises(VideoError, match=rf"{name}: cannot be opened as a video: .* as playlists and texts are"):
        video.read_clip(tmp_path / name, SPEC)


def test_a_name_that_looks_like_a_pattern_is_a_name(write_video: WriteVideo, tmp_path: Path) -> None:
    for name, level in (("a%d.jpg", 200), ("a1.jpg", 20)):
        picture = av.VideoFrame.from_ndarray(np.full((32, 32, 3), level, np.uint8), format="rgb24")
        encoder = av.CodecContext.create("mjpeg", "w")
        encoder.width, encoder.height, encoder.pix_fmt = 32, 32, "yuvj420p"
        encoder.time_base = Fraction(1, 25)
        data = b"".join(bytes(packet) for packet in [*encoder.encode(picture), *encoder.encode(None)])
        (tmp_path / name).write_bytes(data)
    assert video.read_clip(tmp_path / "a%d.jpg", SPEC).mean() > 150


def test_a_frame_that_would_take_all_memory_is_refused(
    write_video: WriteVideo, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_video(ramp(4))
    monkeypatch.setattr(container, "MAX_PIXELS", 100)
    with pytest.raises(VideoError, match=r"frames of \d+x\d+ pixels are too large"):
        video.read_clip(path, SPEC)


def test_a_late_start_is_no_duration(write_video: WriteVideo, tmp_path: Path) -> None:
    late = tmp_path / "late.mkv"
    with av.open(str(write_video(ramp(26), "libx264"))) as source, av.open(str(late), "w") as copy:
        stream = copy.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.pts += int(700 / packet.time_base)
                packet.dts += int(700 / packet.time_base)
                packet.stream = stream
                copy.mux(packet)
    assert video.duration_s(late) == pytest.approx(26 / 25, abs=0.1)


def test_a_playlist_cannot_make_the_server_call_out(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n")
    with pytest.raises(VideoError, match=r"clip\.mp4: "):
        video.read_clip(path, SPEC)


def test_a_pipe_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(VideoError, match="is not a regular file"):
        video.read_clip(tmp_path / "pipe.mp4", SPEC)


def test_a_title_in_another_encoding_is_no_damage(write_video: WriteVideo, tmp_path: Path) -> None:
    plain, titled = write_video(ramp(8), "mjpeg"), tmp_path / "titled.avi"
    with av.open(str(plain)) as source, av.open(str(titled), "w") as copy:
        copy.metadata["title"] = "Griesse"
        stream = copy.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                copy.mux(packet)
    titled.write_bytes(titled.read_bytes().replace(b"Griesse", "Grüße\0\0".encode("latin-1")))
    with pytest.raises(UnicodeDecodeError), av.open(str(titled)):
        pass
    np.testing.assert_array_equal(video.read_clip(titled, SPEC), video.read_clip(plain, SPEC))


@pytest.mark.parametrize("cover", [False, True])
def test_sound_alone_is_no_video_even_with_a_cover_picture(tmp_path: Path, cover: bool) -> None:
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        if cover:
            picture = container.add_stream("mjpeg", rate=1)
            picture.width, picture.height, picture.pix_fmt = 32, 32, "yuvj420p"
            picture.disposition = Disposition.attached_pic
        stream = container.add_stream("aac", rate=48000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4096), dtype=np.float32), format="fltp", layout="mono")
        frame.sample_rate = 48000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if cover:
            container.mux(picture.encode(av.VideoFrame(32, 32, "yuvj420p")))
            container.mux(picture.encode(None))
    with pytest.raises(VideoError, match="has no video stream"):
        video.read_clip(path, SPEC)


def test_a_folder_of_images_is_a_video(write_video: WriteVideo, tmp_path: Path) -> None:
    """Jester comes so; names start at 1, need not be padded and may hold a percent sign."""
    joined = write_video(ramp(13), "mjpeg")
    folder = tmp_path / "100%d"
    folder.mkdir()
    (folder / "notes.txt").write_text("not an image")
    with av.open(str(joined)) as container:
        for number, packet in enumerate(container.demux(video=0)):
            if packet.size:
                (folder / f"img_{number + 1}.jpg").write_bytes(bytes(packet))
    assert video.probe(folder).times_s == pytest.approx(np.arange(13) / 12)
    np.testing.assert_array_equal(video.read_frames(folder, np.arange(13)), video.read_frames(joined, np.arange(13)))
    np.testing.assert_array_equal(video.read_clip(folder, SPEC), video.read_clip(joined, SPEC))
    (folder / "img_7.jpg").unlink()
    with pytest.raises(VideoError, match=r"has no image img_7\.jpg, but later ones"):
        video.probe(folder)


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo], ids=["folder", "pipe"])
def test_an_image_that_is_no_file_is_not_waited_for(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "00001.jpg")
    with pytest.raises(VideoError, match=r"00001\.jpg is not a regular file$"):
        video.probe(tmp_path)


@pytest.mark.parametrize("name", ["v_7_%04d.jpg", "IMG_%04d.JPG", "%d.jpeg"])
def test_images_may_be_called_otherwise(write_video: WriteVideo, tmp_path: Path, name: str) -> None:
    joined, folder = write_video(ramp(11), "mjpeg"), tmp_path / "images"
    folder.mkdir()
    with av.open(str(joined)) as container:
        for number, packet in enumerate(packet for packet in container.demux(video=0) if packet.size):
            (folder / (name % (number + 8))).write_bytes(bytes(packet))
    (folder / "._00000.jpg").touch()  # as macOS leaves them
    np.testing.assert_array_equal(video.read_frames(folder, np.arange(11)), video.read_frames(joined, np.arange(11)))
    (folder / "flow_x_00001.jpg").touch()
    with pytest.raises(VideoError, match="holds more than one series of images"):
        video.probe(folder)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.mp4", None, "no such file"),
        ("empty.mp4", b"", "is empty"),
        ("text.avi", b"not a video at all", "cannot be opened as a video"),
        ("notes.txt", b"not a video at all\n" * 1000, "cannot be opened as a video: .* as playlists and texts are"),
        ("song.cdg", bytes(range(256)) * 99, "cannot be opened as a video: .* as playlists and texts are"),
        ("bytes.bin", bytes(range(256)) * 80, "cannot be opened as a video"),
        ("bytes.mp4", bytes(range(256)) * 80, "cannot be opened as a video"),
        ("folder", "folder", "is a folder without videos or numbered .jpg images"),
    ],
)
@pytest.mark.parametrize("read", [video.probe, lambda path: video.read_clip(path, SPEC)], ids=["probe", "read_clip"])
def test_what_is_no_video_gives_one_clear_line(
    tmp_path: Path, name: str, content: bytes | str | None, message: str, read: Callable[[Path], object]
) -> None:
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content:
        path.mkdir()
    with pytest.raises(VideoError, match=f"{name}: {message}") as raised:
        read(path)
    assert "\n" not in str(raised.value)


def test_a_folder_of_videos_is_called_one(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "below/a.mp4").touch()
    with pytest.raises(VideoError, match="is a folder of videos, not a video"):
        video.probe(tmp_path)


def test_a_frame_beyond_the_end_is_named(write_video: WriteVideo) -> None:
    with pytest.raises(VideoError, match="frame 40 cannot be decoded"):
        video.read_frames(write_video(ramp(4)), np.array([0, 40]))


def test_every_odd_file_gives_a_clip_or_one_clear_line(real_data: Path) -> None:
    unreadable = set()
    for path in sorted((real_data / "robustness").iterdir()):
        message = outcome(path)
        if message:
            assert "\n" not in message
            assert path.name in message
            unreadable.add(path.name)
    assert len(unreadable) == 13, unreadable
