"""Architectures, names and checkpoints."""

import json
import resource
import warnings
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from cpd.clip import ClipSpec
from cpd.errors import TrainingError
from cpd_train.models import ModelSpec, build_model, count_flops, load_pretrained, read_checkpoint, write_checkpoint
from cpd_train.models.shift import temporal_shift

CLIP = ClipSpec(frames=4, resize=32, crop=(32, 32))
LABELS = ("one", "two", "three")


def model_of(name, clip=CLIP, **options):
    torch.manual_seed(0)
    return build_model(ModelSpec(name, **options), len(LABELS), clip).eval()


def some_frames(batch=2):
    return torch.randint(0, 256, (batch, *CLIP.shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


class TestShift:
    def test_moves_channels_by_one_frame_and_fills_with_zeros(self):
        x = torch.arange(1, 2 * 3 * 8 + 1, dtype=torch.float32).reshape(2 * 3, 8, 1, 1)
        clips, shifted = x.view(2, 3, 8), temporal_shift(x, frames=3, fraction=0.5).view(2, 3, 8)
        for t in range(3):
            ahead = clips[:, t + 1, :2] if t < 2 else torch.zeros(2, 2)
            behind = clips[:, t - 1, 2:4] if t > 0 else torch.zeros(2, 2)
            torch.testing.assert_close(shifted[:, t], torch.cat([ahead, behind, clips[:, t, 4:]], 1))

    def test_leaves_its_input_alone(self):
        x = torch.rand(8, 8, 2, 2)
        before = x.clone()
        temporal_shift(x, 4, 0.25)
        torch.testing.assert_close(x, before)

    def test_never_mixes_clips(self):
        x = torch.rand(2 * 4, 8, 2, 2)
        alone = temporal_shift(x[:4], 4, 0.5)
        torch.testing.assert_close(temporal_shift(x, 4, 0.5)[:4], alone)


class TestModels:
    @pytest.mark.parametrize("backbone", ["tiny", "resnet18", "resnet50", "mobilenetv2"])
    def test_tsm_sees_the_order_of_frames_and_tsn_does_not(self, backbone):
        frames = some_frames()
        backwards = frames.flip(1)
        with torch.no_grad():
            # with a batch's own statistics: untrained running ones let a deep network's signal die away
            tsn, tsm = model_of(f"tsn-{backbone}").train(), model_of(f"tsm-{backbone}").train()
            torch.testing.assert_close(tsn(frames), tsn(backwards), atol=1e-4, rtol=1e-3)
            assert (tsm(frames) - tsm(backwards)).abs().max() > 10 * (tsn(frames) - tsn(backwards)).abs().max()

    @pytest.mark.parametrize("backbone", ["tiny", "resnet34", "resnet50", "mobilenetv2"])
    def test_features_are_four_stages_and_the_same_logits(self, backbone):
        model = model_of(f"tsm-{backbone}")
        with torch.no_grad():
            features = model.with_features(some_frames())
            torch.testing.assert_close(features.logits, model(some_frames()))
        assert [tuple(stage.shape[:2]) for stage in features.stages] == [(2, 4)] * 4
        assert features.stages[0].shape[-1] > features.stages[3].shape[-1]

    def test_preprocessing_is_part_of_the_model(self):
        seen = []
        model = model_of("tsn-tiny")
        model.backbone.conv1.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
        model(torch.full((1, *CLIP.shape), 51, dtype=torch.uint8))
        expected = (0.2 - torch.tensor(CLIP.mean)) / torch.tensor(CLIP.std)
        torch.testing.assert_close(seen[0][0, :, 0, 0], expected)

    def test_a_clip_normalised_by_itself_tells_nothing_of_light(self):
        seen = []
        model = model_of("tsn-tiny", clip=replace(CLIP, normalise="clip"))
        model.backbone.conv1.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
        bright = some_frames() // 2 + 100
        model(bright)
        pixels = bright.double()
        expected = (pixels - pixels.mean((1, 2, 3, 4), keepdim=True)) / (
            pixels.std((1, 2, 3, 4), keepdim=True, unbiased=False) + 1
        )
        torch.testing.assert_close(seen[0], expected.flatten(0, 1).permute(0, 3, 1, 2).float())
        with torch.no_grad():
            torch.testing.assert_close(model(bright), model(bright - 90))
            even = model(torch.full((1, *CLIP.shape), 51, dtype=torch.uint8))
        assert even.isfinite().all()

    def test_a_grey_model_sees_brightness_alone(self):
        seen = []
        model = model_of("tsn-tiny", clip=replace(CLIP, colour="grey", mean=(0, 0, 0), std=(1, 1, 1)))
        model.backbone.conv1.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
        frames = some_frames()
        model(frames)
        luma = frames.double() @ torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64) / 255
        for channel in range(3):
            torch.testing.assert_close(seen[0][:, channel].double(), luma.flatten(0, 1), atol=1e-6, rtol=0)

    def test_a_motion_model_sees_what_changes_beside_what_is(self):
        seen = []
        model = model_of("tsn-tiny", clip=replace(CLIP, colour="motion", normalise="clip"))
        model.backbone.conv1.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
        frames = some_frames()
        model(frames)
        luma = frames.double() @ torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)
        change = torch.zeros_like(luma)
        change[:, :-1] = luma.diff(dim=1)
        for channel, expected in enumerate((luma, luma - luma.mean(1, keepdim=True), change)):
            centred = expected - expected.mean((1, 2, 3), keepdim=True)
            expected = centred / (expected.std((1, 2, 3), keepdim=True, unbiased=False) + 1)
            torch.testing.assert_close(seen[0][:, channel].double(), expected.flatten(0, 1), atol=1e-5, rtol=0)

    def test_a_clip_that_stands_still_has_no_motion(self):
        seen = []
        model = model_of("tsn-tiny", clip=replace(CLIP, colour="motion", normalise="clip"))
        model.backbone.conv1.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
        model(some_frames()[:, :1].expand(-1, CLIP.frames, -1, -1, -1))
        assert seen[0][:, 0].std() > 0.5
        torch.testing.assert_close(seen[0][:, 1:], torch.zeros_like(seen[0][:, 1:]), atol=1e-4, rtol=0)

    def test_flops_are_two_for_a_multiply_add(self):
        """A known architecture: ResNet-18 takes 1.814 G multiply-adds for one 224 x 224 image and 1000 classes."""
        clip = ClipSpec(frames=1, resize=224, crop=(224, 224))
        assert count_flops(build_model(ModelSpec("tsn-resnet18"), 1000, clip)) == pytest.approx(2 * 1.814e9, rel=2e-3)

    @pytest.mark.parametrize(
        ("name", "millions"), [("resnet18", 11.69), ("resnet34", 21.80), ("resnet50", 25.56), ("mobilenetv2", 3.50)]
    )
    def test_parameters_are_those_of_torchvision(self, name, millions):
        model = build_model(ModelSpec(f"tsm-{name}"), 1000, CLIP)
        assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.006)

    def test_names_are_those_of_torchvision(self):
        resnet, mobile = (set(model_of(f"tsm-{name}").backbone.state_dict()) for name in ("resnet50", "mobilenetv2"))
        assert {"conv1.weight", "bn1.running_var", "layer1.0.conv3.weight", "layer4.2.bn2.bias"} <= resnet
        assert {"layer2.0.downsample.0.weight", "layer2.0.downsample.1.num_batches_tracked", "fc.bias"} <= resnet
        assert {"features.0.0.weight", "features.1.conv.0.0.weight", "features.1.conv.2.bias"} <= mobile
        assert {"features.17.conv.1.0.weight", "features.18.1.running_mean", "classifier.1.weight"} <= mobile
        assert len(resnet) == 320
        assert len(mobile) == 314


class TestCheckpoints:
    def test_describe_themselves(self, tmp_path):
        model = model_of("tsm-tiny", width=4)
        write_checkpoint(tmp_path / "m.safetensors", model, "student", LABELS, "abc", 3, 0.75)
        read = read_checkpoint(tmp_path / "m.safetensors")
        assert (read.role, read.labels, read.data_sha256, read.epoch, read.validation_top1) == (
            "student", LABELS, "abc", 3, 0.75,
        )  # fmt: skip
        assert read.model.spec == model.spec
        assert read.model.clip == CLIP
        assert read.parameters == sum(p.numel() for p in model.parameters())
        torch.testing.assert_close(read.model(some_frames()), model(some_frames()))
        assert list(tmp_path.iterdir()) == [tmp_path / "m.safetensors"]

    def test_are_written_as_other_files_are(self, tmp_path):
        """Readable by whom the umask lets; what the system refuses is its own error, which the pipeline explains."""

        def written(name):
            write_checkpoint(tmp_path / name, model_of("tsm-tiny", width=4), "student", LABELS, "", 0, 0.0)
            return tmp_path / name

        (tmp_path / "other").touch()
        assert written("m.safetensors").stat().st_mode == (tmp_path / "other").stat().st_mode
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
        try:
            with pytest.raises(OSError, match="File too large"):
                written("n.safetensors")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert not (tmp_path / "n.safetensors").exists()

    @pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
    def test_torchvision_weights_load_but_for_another_classifier(self, tmp_path, suffix):
        source = build_model(ModelSpec("tsn-resnet18"), 1000, CLIP).backbone.state_dict()
        path = tmp_path / f"resnet18{suffix}"
        torch.save(source, path) if suffix == ".pth" else save_file(source, path)
        model = model_of("tsm-resnet18")
        assert load_pretrained(model, path, LABELS) == ["fc.bias", "fc.weight"]
        torch.testing.assert_close(model.backbone.layer3[1].conv2.weight, source["layer3.1.conv2.weight"])

    def test_torchvisions_resnets_have_no_counters_of_batches(self, tmp_path):
        """Its ImageNet ResNets were saved before batch normalisation counted: 102 tensors of 122."""
        source = build_model(ModelSpec("tsn-resnet18"), len(LABELS), CLIP).backbone.state_dict()
        published = {name: tensor for name, tensor in source.items() if not name.endswith("num_batches_tracked")}
        assert (len(published), len(source)) == (102, 122)
        torch.save(published, tmp_path / "resnet18.pth")
        model = model_of("tsm-resnet18")
        assert load_pretrained(model, tmp_path / "resnet18.pth", LABELS, as_it_is=True) == []
        torch.testing.assert_close(model.backbone.bn1.running_var, source["bn1.running_var"])

    def test_published_tsm_names_load(self, tmp_path):
        """Names as in the checkpoints of the TSM release: shifted convolutions sit in a wrapper called net."""
        source = model_of("tsm-resnet50").backbone.state_dict()
        theirs = {}
        for name, tensor in source.items():
            name = name.replace("conv1.weight", "conv1.net.weight") if name.startswith("layer") else name
            name = name.replace("fc.", "new_fc.") if name.startswith("fc.") else f"base_model.{name}"
            theirs[f"module.{name}"] = tensor
        torch.save({"state_dict": theirs, "epoch": 50}, tmp_path / "tsm.pth")
        model = build_model(ModelSpec("tsm-resnet50"), len(LABELS), CLIP)
        assert load_pretrained(model, tmp_path / "tsm.pth", LABELS) == []
        torch.testing.assert_close(model.backbone.fc.weight, source["fc.weight"])

    @pytest.mark.parametrize("online", [False, True])
    def test_the_mobilenets_that_tsm_publishes_load(self, tmp_path, online):
        """Their blocks are flat: convolution, normalisation and activation are counted one by one.

        That of the online demo has neither prefix nor wrapper, and its own name for the classifier.
        """
        source = model_of("tsm-mobilenetv2").backbone.state_dict()
        places = {"0.0": 0, "0.1": 1, "1.0": 3, "1.1": 4, "2": 6, "3": 7}
        firsts = {"0.0": 0, "0.1": 1, "1": 3, "2": 4}
        theirs = {}
        for name, tensor in source.items():
            head, inside, rest = name.partition(".conv.")
            if inside:
                place, _, parameter = rest.rpartition(".")
                flat = (firsts if head == "features.1" else places)[place]
                net = ".net" if flat == 0 and head in ("features.3", "features.5") and not online else ""
                name = f"{head}.conv.{flat}{net}.{parameter}"
            head, _, parameter = name.rpartition(".")
            if head == "classifier.1":
                name = f"classifier.{parameter}" if online else f"new_fc.{parameter}"
            theirs[name if online else f"module.{'' if name.startswith('new_fc') else 'base_model.'}{name}"] = tensor
        torch.save(theirs if online else {"state_dict": theirs}, tmp_path / "tsm.pth.tar")
        model = build_model(ModelSpec("tsm-mobilenetv2"), len(LABELS), CLIP)
        assert load_pretrained(model, tmp_path / "tsm.pth.tar", LABELS, as_it_is=True) == []
        loaded = model.backbone.state_dict()
        assert all(torch.equal(loaded[name], tensor) for name, tensor in source.items())

    def test_other_backbones_and_other_labels_are_refused(self, tmp_path):
        write_checkpoint(tmp_path / "m.safetensors", model_of("tsm-tiny", width=4), "student", LABELS, "", 0, 0.0)
        with pytest.raises(TrainingError, match=r"does not fit tsm-tiny .*of another shape"):
            load_pretrained(model_of("tsm-tiny", width=8), tmp_path / "m.safetensors", LABELS)
        with pytest.raises(TrainingError, match="was trained for other labels"):
            load_pretrained(model_of("tsm-tiny", width=4), tmp_path / "m.safetensors", ("a", "b", "c"))

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (lambda weight: weight * torch.nan, "conv1.weight is not finite"),
            (lambda weight: (weight * 100).to(torch.int8), "does not fit tsm-tiny .*another shape or type"),
            (lambda weight: weight.to(torch.complex64), "does not fit tsm-tiny .*another shape or type"),
            (lambda weight: weight.to_sparse(), "does not fit tsm-tiny .*another shape or type"),
        ],
    )
    def test_weights_that_are_no_numbers_are_refused(self, tmp_path, change, said):
        weights = model_of("tsm-tiny").backbone.state_dict()
        torch.save({**weights, "conv1.weight": change(weights["conv1.weight"])}, tmp_path / "m.pth")
        with pytest.raises(TrainingError, match=rf"m\.pth: {said}"):
            load_pretrained(model_of("tsm-tiny"), tmp_path / "m.pth", LABELS)
        torch.save({0: weights["conv1.weight"]}, tmp_path / "m.pth")
        with pytest.raises(TrainingError, match="holds no state_dict"):
            load_pretrained(model_of("tsm-tiny"), tmp_path / "m.pth", LABELS)

    @pytest.mark.parametrize(
        ("written", "instead"), [('{"role"', '{"r": 0, role"'), ("labels", "classes"), ("shift_fraction", "shift")]
    )
    def test_a_description_that_is_damaged_or_of_another_version_is_told(self, tmp_path, written, instead):
        path = tmp_path / "m.safetensors"
        write_checkpoint(path, model_of("tsm-tiny"), "student", LABELS, "", 0, 0.0)
        with safe_open(path, "pt") as file:
            description = file.metadata()["cpd"].replace(written, instead, 1)
        save_file(load_file(path), path, {"cpd": description})
        for read in (read_checkpoint, lambda path: load_pretrained(model_of("tsm-tiny"), path, LABELS, as_it_is=True)):
            with pytest.raises(TrainingError, match=r"what it says of its model cannot be used: .*another version"):
                read(path)

    def test_code_in_a_pth_is_not_run(self, tmp_path):
        class Trap:
            def __reduce__(self):
                return (json.loads, ("1",))

        torch.save({"state_dict": Trap()}, tmp_path / "trap.pth")
        with pytest.raises(TrainingError, match=r"alone: it .* holds other things \(save its state_dict"):
            load_pretrained(model_of("tsm-tiny"), tmp_path / "trap.pth", LABELS)

    def test_a_torchscript_is_refused_in_a_line(self, tmp_path):
        with warnings.catch_warnings(action="ignore"):  # torch.jit is deprecated, and in use
            torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / "m.pth")
        with (
            warnings.catch_warnings(record=True, action="always") as told,
            pytest.raises(TrainingError, match=r"m\.pth: cannot be read as weights alone"),
        ):
            load_pretrained(model_of("tsm-tiny"), tmp_path / "m.pth", LABELS)
        assert not told

    @pytest.mark.parametrize("content", [None, b"", b"not weights at all"])
    @pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
    def test_missing_and_damaged_files_are_named(self, tmp_path, content, suffix):
        path = tmp_path / f"m{suffix}"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(TrainingError, match=rf"m{suffix}: "):
            load_pretrained(model_of("tsm-tiny"), path, LABELS)


def test_odd_widths_train_the_same_way_twice():
    """Channels that are no multiple of 8, in channels-last order, make torch 2.13 on a CPU write out of bounds."""

    def trained():
        torch.manual_seed(0)
        model = build_model(ModelSpec("tsm-tiny", width=6), len(LABELS), CLIP)
        optimiser = torch.optim.SGD(model.parameters(), lr=0.01)
        for _ in range(4):
            optimiser.zero_grad()
            model(some_frames(4)).square().sum().backward()
            optimiser.step()
        return model.backbone.state_dict()

    first, second = trained(), trained()
    assert all(torch.equal(first[name], second[name]) for name in first)
