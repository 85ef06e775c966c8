"""Reading pipeline.yaml: what it accepts, and what it says of what it does not."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest

from cpd.config_file import load_config, schema
from cpd.errors import ConfigError

MINIMAL = "name: demo\ndata: {rendered: {}}\nteacher: {}\nstudent: {}\n"


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes pipeline.yaml into the current folder."""
    monkeypatch.chdir(tmp_path)

    def write(text: str) -> Path:
        Path("pipeline.yaml").write_text(text)
        return Path("pipeline.yaml")

    return write


def problems(path: Path, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    assert caught.value.exit_code == 2
    return caught.value.problems


def test_a_minimal_file_takes_the_defaults_of_the_types(write):
    config = load_config(write(MINIMAL))
    assert config.name == "demo"
    assert config.data.rendered is not None
    assert config.distill.temperature == 4.0
    assert config.run_dir == Path("runs/demo")


def test_numbers_and_words_follow_yaml_1_2(write):
    config = load_config(write(MINIMAL.replace("teacher: {}", "teacher: {learning_rate: 1e-3}")))
    assert config.teacher.learning_rate == 1e-3
    config = load_config(write(MINIMAL + "augment: {flip: true, flip_labels: {on: off, off: on, no: yes, yes: no}}\n"))
    assert config.augment.flip_labels == {"on": "off", "off": "on", "no": "yes", "yes": "no"}
    config = load_config(write(MINIMAL.replace("demo", "2026-01-01")))
    assert config.name == "2026-01-01"


def test_every_problem_is_reported_at_its_line(write):
    path = write(
        "name: demo\n"  # 1
        "sed: 1\n"  # 2
        "data:\n"  # 3
        "  rendered: {}\n"  # 4
        "  cach_gb: 1\n"  # 5
        "teacher:\n"  # 6
        "  model: tsm-resent18\n"  # 7
        "  epochs: 0.5\n"  # 8
        "  batch_size: 0\n"  # 9
        "student: {epochs: -1}\n"  # 10
        "clip:\n"  # 11
        "  std: [1, 0, 1]\n"  # 12
        "  crop: [1, 2, 3]\n"  # 13
        "  mean: [0.5]\n"  # 14
        "augment: {flip: yes}\n"  # 15
    )
    assert problems(path) == [
        "pipeline.yaml:2: sed is not a key here, did you mean seed?",
        "pipeline.yaml:5: data.cach_gb is not a key here, did you mean cache_gb?",
        "pipeline.yaml:7: teacher.model must be tsm-tiny, tsn-tiny, tsm-resnet18, tsm-resnet34, tsm-resnet50, "
        "tsm-mobilenetv2, tsn-resnet18, tsn-resnet34, tsn-resnet50 or tsn-mobilenetv2, "
        'got "tsm-resent18", did you mean tsm-resnet18?',
        "pipeline.yaml:8: teacher.epochs must be a whole number, got 0.5",
        "pipeline.yaml:9: teacher.batch_size must be at least 1, got 0",
        "pipeline.yaml:10: student.epochs must be at least 0, got -1",
        "pipeline.yaml:12: clip.std[1] must be at least 0.001, got 0",
        "pipeline.yaml:13: clip.crop must be a list of 2, got [1, 2, 3]",
        "pipeline.yaml:14: clip.mean must be a list of 3, got [0.5]",
        'pipeline.yaml:15: augment.flip must be true or false, got "yes"',
    ]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("epochs: 3", "epochs is not a key here, did you mean teacher.epochs or student.epochs?"),
        ("clip: 3", "clip must be a section of key: value lines, got 3"),
        ("clip:", "clip must be a section of key: value lines, got nothing"),
        ("clip: {resize: 0}", "clip.resize must be at least 1, got 0"),
        ("clip: {resize: [96]}", "clip.resize must be a list of 2, got [96]"),
        ("clip: {resize: big}", 'clip.resize must be a whole number or a list of them, got "big"'),
        ("clip: {crop: [200, 200]}", "clip: crop [200, 200] is larger than the resized frame (128)"),
        ("clip: {mean: [.inf, 0, 0]}", "clip.mean[0] must be a finite number, got Infinity"),
        ("seed: true", "seed must be a whole number, got true"),
        ('seed: "1"', 'seed must be a whole number, got "1"'),
        ("output: 3", "output must be text (put it in quotes), got 3"),
        ("augment: {flip_labels: {left: 1}}", "augment.flip_labels.left must be text (put it in quotes), got 1"),
        ("augment: {crop_scale: [1, 0.5]}", "augment: crop_scale must be [smallest, largest], above 0, got [1, 0.5]"),
        ("export: {precisions: [int8]}", "export: precisions must name fp32, since the others are made from it"),
        ("export: {precisions: [fp64]}", 'export.precisions[0] must be fp32, fp16 or int8, got "fp64", did you mean'),
        ("export: {compute_capabilities: ['89']}", "export.compute_capabilities[0] must be text of the form ^(\\d+"),
        ("export: {compute_capabilities: ['8.9', '8.9']}", "export: compute_capabilities must differ"),
        ("export: {opset: 17}", "export.opset must be at least 18, got 17"),
        ("export: {opset: 26}", "export.opset must be at most 25, got 26"),
        ("export: {max_batch: 100000000000}", "export.max_batch must be at most 65536"),
        ("export: {compute_capabilities: [8.9]}", "export.compute_capabilities[0] must be text (put it in quotes)"),
        ("<<: {seed: 1}", "<< (a merge key) is not read here: write its keys out"),
        ("device: &x [*x]", "device[0] contains itself"),
        ("device: !!python/name:os.system x", "device cannot be read: could not determine a constructor for the tag"),
        ("device: gpu", 'device must be auto, cpu or cuda, got "gpu"'),
        ("clip: {mean: [123, 116, 103], std: [58, 57, 57]}", "clip: mean and std are of colours from 0 to 1: divide"),
        ("clip: {mean: [-0.5, 0, 0]}", "clip.mean[0] must be at least 0, got -0.5"),
        ("clip: {std: [1e-300, 1, 1]}", "clip.std[0] must be at least 0.001, got 1e-300"),
        ("clip: {resize: 100000}", "clip.resize must be at most 4096, got 100000"),
        ("clip: {resize: [128, 100000]}", "clip.resize must be at most 4096, got [128, 100000]"),
        ("clip: {crop: [1, 100000]}", "clip.crop[1] must be at most 4096, got 100000"),
        ("clip: {frames: 1000000}", "clip.frames must be at most 1024, got 1000000"),
        ("clip: {frames: 1024, resize: 4096, crop: [4096, 4096]}", "student.batch_size: 32 clips of clip.frames and "
         "clip.crop take 1649 GB, more than 16"),
        ("distill: {temperature: 1e-300}", "distill.temperature must be at least 0.01, got 1e-300"),
        ("export: {precisions: fp32}", 'export.precisions must be a list in brackets, got "fp32"'),
        ("augment: {flip: true, flip_labels: {left: right}}", "augment: flip_labels: a mirrored left is right, so a "
         "mirrored right must be left, got nothing"),
        ("augment: {flip: true, flip_labels: {a: b, b: c, c: b}}", "augment: flip_labels: a mirrored a is b, so a "
         "mirrored b must be a, got c"),
        ('output: "~nosuchuser/x"', 'output: there is no user nosuchuser, got "~nosuchuser/x"'),
        ('output: "a\\0b"', "output: no file or folder can have that name"),
        ('output: ""', 'output: no file or folder can have that name, got ""'),
        ('output: "\\ud800"', "output is no text: it holds half a character"),
        ("output: " + "x" * 300, "output: file name too long"),
        ("name: other", "name is given twice, first at pipeline.yaml:1"),
        ("{a: 1}: 2", "a key must be a word"),
    ],
)  # fmt: skip
def test_a_problem_is_said_in_plain_words(write, line, problem):
    found = problems(write(MINIMAL + line + "\n"))
    assert any(one.startswith(f"pipeline.yaml:5: {problem}") for one in found), found
    assert not any("Input should" in one or "pydantic" in one for one in found)


def test_problems_of_several_keys_stand_at_the_first_they_speak_of(write):
    text = "name: demo\ndata:\n  folder: a\n  list: b\nteacher: {}\nstudent:\n  model: tsm-resnet18\n  width: 8\n"
    assert problems(write(text)) == [
        "pipeline.yaml:3: data: name exactly one of rendered, folder or list, got folder and list",
        "pipeline.yaml:8: student: width and blocks belong to tiny models, not to tsm-resnet18",
    ]


def test_keys_that_contradict_each_other_are_reported_together_and_beside_wrong_ones(write):
    path = write(
        "name: demo\n"  # 1
        "data: {rendered: {}, list: a, test_fraction: 0.9, validation_fraction: 0.1}\n"  # 2
        "clip:\n"  # 3
        "  frames: 1\n"  # 4
        "  normalise: clip\n"  # 5
        "  mean: [0.5]\n"  # 6: and not used with normalise: clip, once it is right
        "  crop: [200, 200]\n"  # 7
        "teacher: {}\n"  # 8
        "student:\n"  # 9
        "  causal: true\n"  # 10
        "  generations: 2\n"  # 11
        "  label_smoothing: 0.1\n"  # 12
        "  epochs: 0\n"  # 13
        "  model: tsn-resnet18\n"  # 14
        "  width: wide\n"  # 15
        "distill:\n"  # 16
        "  spectrum: {dc: false, align: channels}\n"  # 17
        "  parameters: {start: random}\n"
    )
    assert problems(path) == [
        "pipeline.yaml:2: data: name exactly one of rendered, folder or list, got rendered and list",
        "pipeline.yaml:2: data: validation_fraction and test_fraction leave nothing to train on",
        "pipeline.yaml:6: clip.mean must be a list of 3, got [0.5]",
        "pipeline.yaml:7: clip: crop [200, 200] is larger than the resized frame (128)",
        "pipeline.yaml:10: student.causal runs frame by frame, which clip.normalise: clip does not allow",
        "pipeline.yaml:10: student: causal belongs to tsm models, not to tsn-resnet18: it has no shift",
        "pipeline.yaml:11: student.generations must be 1: only the teacher has no teacher",
        "pipeline.yaml:12: student.label_smoothing must be 0: a student's labels are softened by its teacher",
        "pipeline.yaml:13: student.epochs must be 1 at least, or nothing would be distilled",
        'pipeline.yaml:15: student.width must be a whole number, got "wide"',
        "pipeline.yaml:17: distill.spectrum.dc: false leaves nothing of a clip of one frame",
        "pipeline.yaml:17: distill: spectrum.align: channels needs parameters.start: fitted (or teacher), which "
        "makes channels correspond",
    ]


@pytest.mark.parametrize(
    ("spectrum", "frames", "problem"),
    [
        ("bin_weights: [1, 1, 1, 1]", 8,
         "bin_weights must be a list of 5, one for each temporal frequency of clip.frames: 8, got 4"),
        ("{dc: false, bin_weights: [1, 1, 1, 1, 1]}", 8,
         "bin_weights must be a list of 4, one for each temporal frequency of clip.frames: 8 without dc, got 5"),
        ("bin_weights: [1, 1]", 1,
         "bin_weights must be a list of 1, one for each temporal frequency of clip.frames: 1, got 2"),
        ("bin_weights: [0, 0, 0, 0, 0]", 8,
         "bin_weights are all 0, so nothing of the spectrum counts"),
        ("bin_weights: [1, 1, -1, 1, 1]", 8, "bin_weights[2] must be at least 0, got -1"),
        ("bin_weights: 1", 8, "bin_weights must be a list in brackets, got 1"),
    ],
)  # fmt: skip
def test_bin_weights_that_do_not_fit_are_told_with_their_line(write, spectrum, frames, problem):
    spectrum = spectrum if spectrum.startswith("{") else f"{{{spectrum}}}"
    path = write(f"{MINIMAL}clip: {{frames: {frames}}}\ndistill:\n  spectrum: {spectrum}\n")
    (told,) = problems(path)
    assert re.fullmatch(rf"pipeline\.yaml:7: distill\.spectrum(\.|: ){re.escape(problem)}", told)


@pytest.mark.parametrize(("dc", "frames", "weights"), [("true", 8, 5), ("false", 8, 4), ("true", 7, 4), ("true", 1, 1)])
def test_bin_weights_are_one_for_each_temporal_frequency(write, dc, frames, weights):
    given = [*range(1, weights + 1)]
    settings = [f"clip.frames={frames}", f"distill.spectrum.dc={dc}", f"distill.spectrum.bin_weights={given}"]
    assert load_config(write(MINIMAL), settings).distill.spectrum.bin_weights == tuple(given)


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        ("clip: {resize: big, crop: [200, 200]}", 'clip.resize must be a whole number or a list of them, got "big"'),
        ("data: {list: 3}", "data.list must be text (put it in quotes), got 3"),
        ("data: 3", "data must be a section of key: value lines, got 3"),
        ("student: {epochs: 0, checkpoint: !x a}", "student.checkpoint cannot be read: could not determine a constr"),
        ("student: {model: tsn-tiny, causal: 1}", "student.causal must be true or false, got 1"),
        ("distill: {logits: x, cross_entropy: 0, spectrum: {weight: 0}}", 'distill.logits must be a number, got "x"'),
    ],
)  # fmt: skip
def test_a_wrong_value_is_not_held_against_others_too(write, lines, problem):
    key = lines.partition(":")[0]
    others = "".join(line + "\n" for line in MINIMAL.splitlines() if not line.startswith(key))
    found = problems(write(lines + "\n" + others))
    assert len([one for one in found if one.startswith(f"pipeline.yaml:1: {problem}")]) == 1
    assert len(found) == (2 if "epochs: 0" in lines else 1), found


@pytest.mark.parametrize("lines", [
    "data: {foldr: x}", "teacher: {epochs: 0, checkpont: x}", "clip: {normalize: clip, colour: motion}",
])  # fmt: skip
def test_what_a_misspelt_key_stands_for_is_not_missed_too(write, lines):
    key = lines.partition(":")[0]
    others = "".join(line + "\n" for line in MINIMAL.splitlines() if not line.startswith(key))
    (found,) = problems(write(lines + "\n" + others))
    assert "is not a key here, did you mean" in found


def test_an_override_replaces_a_value_that_cannot_be_read(write):
    path = write(MINIMAL + "device: !x y\n")
    assert load_config(path, ["device=cpu"]).device == "cpu"
    (found,) = problems(path, "device=tpu")
    assert found.startswith("--set device=tpu: device must be auto, cpu or cuda")


def test_a_value_that_cannot_be_read_is_reported_once(write):
    lines = "device: !!python/name:os.system x\naugment: {flip: !maybe 1, erase: 2}\nseed: &x [*x]\n"
    assert problems(write(MINIMAL + lines)) == [
        "pipeline.yaml:5: device cannot be read: could not determine a constructor for the tag "
        "'tag:yaml.org,2002:python/name:os.system'",
        "pipeline.yaml:6: augment.erase must be at most 1, got 2",
        "pipeline.yaml:6: augment.flip cannot be read: could not determine a constructor for the tag '!maybe'",
        "pipeline.yaml:7: seed[0] contains itself",
    ]


def test_a_problem_of_two_sections_stands_where_the_key_does_that_it_names(write):
    path = write(MINIMAL)
    with pytest.raises(ConfigError) as caught:
        load_config(path, ["student.generations=2"])
    assert str(caught.value) == (
        "--set student.generations=2: student.generations must be 1: only the teacher has no teacher"
    )


def test_a_missing_section_and_a_bad_name(write):
    assert problems(write("name: a b\ndata: {rendered: {}}\n")) == [
        "pipeline.yaml:1: name must start with a letter or digit and hold only letters, digits, '.', '_', '-', 100 "
        "at most, got 'a b'",
        "pipeline.yaml: student is missing",
        "pipeline.yaml: teacher is missing",
    ]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "pipeline.yaml: is empty"),
        (b"# nothing yet\n", "pipeline.yaml: is empty"),
        (b"- a\n", "pipeline.yaml:1: must be key: value lines, such as name: demo"),
        (b"name: demo\ndata:\n\t- a\n", "pipeline.yaml:3: not valid YAML: found character '\\t' that cannot start any "
         "token; indent with spaces"),
        (b"name: demo\nname2: a: b\n", "pipeline.yaml:2: not valid YAML: mapping values are not allowed here; put "
         "a space after each colon, and text with ': ' in quotes"),
        (b"name: a\n---\nname: b\n", "pipeline.yaml:2: not valid YAML: expected a single document in the stream, but "
         "found another document"),
        (b"\xff\xfe\xff", "pipeline.yaml: is not text in UTF-8"),
        (b"name: \x00", "pipeline.yaml: not valid YAML: special characters are not allowed"),
        (b"[" * 600, "pipeline.yaml: not valid YAML: it is nested too deeply"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_configuration(write, content, problem):
    path = write("")
    path.write_bytes(content)
    assert problems(path) == [problem]


def test_a_file_that_is_not_there_or_a_folder(tmp_path):
    assert problems(tmp_path / "none.yaml") == [f"{tmp_path}/none.yaml: no such file"]
    assert problems(tmp_path) == [f"{tmp_path}: cannot be read: is a directory"]


def test_overrides_replace_what_the_file_says(write):
    config = load_config(
        write(MINIMAL), ["teacher.epochs=3", "clip.crop=[80, 90]", "distill.spectrum={weight: 0}", "output=out"]
    )
    assert config.teacher.epochs == 3
    assert config.clip.crop == (80, 90)
    assert config.distill.spectrum.weight == 0
    assert config.run_dir == Path("out")


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("teacher.batch_size=0", "teacher.batch_size must be at least 1, got 0"),
        ("teacher.epochs=0", "teacher: training for 0 epochs needs a checkpoint"),
        ("teacher.epoch=1", "teacher.epoch is not a key here, did you mean epochs?"),
        ("student=", "student must be a section of key: value lines, got nothing"),
        ("teacher.epochs", "write it as key=value, such as teacher.epochs=3"),
        ("=3", "write it as key=value, such as teacher.epochs=3"),
        ("name.x=3", "name is a value, not a section"),
        ("clip.crop=[1", "the value is not valid YAML: expected ',' or ']', but got '<stream end>'"),
        ("clip={frames: 1, frames: 2}", "clip.frames is given twice, first at --set clip={frames: 1, frames: 2}"),
    ],
)
def test_a_wrong_override_is_quoted_as_it_was_typed(write, override, problem):
    assert problems(write(MINIMAL), override) == [f"--set {override}: {problem}"]


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("{}", "--set {}: write it as key=value, such as teacher.epochs=3"),
        ("teacher.{}.y=1", "--set teacher.{}: teacher.{} is not a key here; teacher has model, "),
        ("teacher.epochs={}", '--set teacher.epochs={}: teacher.epochs must be a whole number, got "{}'),
        ("data.folder=~{}/clips", '--set data.folder=~{}: data.folder: there is no user {}, got "~{}'),
    ],
)
def test_what_is_long_in_an_override_is_shortened_wherever_a_problem_names_it(write, override, problem):
    (told,) = problems(write(MINIMAL), override.format("x" * 5000))
    assert re.sub("x{9,}…", "{}", told).startswith(problem)


def test_a_number_that_python_does_not_read_is_a_problem_in_one_line(write):
    (told,) = problems(write(MINIMAL), f"teacher.epochs=1{'0' * 5000}")
    assert re.match(r"--set teacher\.epochs=10+…: teacher\.epochs cannot be read: Exceeds the limit", told)


def test_the_file_is_reported_before_the_overrides(write):
    path = write(MINIMAL + "seed: -1\n")
    assert problems(path, "teacher.batch_size=0") == [
        "pipeline.yaml:5: seed must be at least 0, got -1",
        "--set teacher.batch_size=0: teacher.batch_size must be at least 1, got 0",
    ]


def test_paths_to_read_start_at_the_file_if_they_exist_there(tmp_path, monkeypatch):
    (tmp_path / "pipelines" / "clips").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    path = Path("pipelines/a.yaml")
    path.write_text("name: a\ndata: {folder: clips}\nteacher: {checkpoint: ../w.pth}\nstudent: {}\noutput: out\n")

    config = load_config(path)
    assert config.data.folder == tmp_path / "pipelines/clips"
    assert config.teacher.checkpoint == tmp_path.parent / "w.pth", "it exists nowhere: as seen from here"
    assert config.output == Path("out"), "written, not read"
    assert load_config(path, ["data.folder=elsewhere"]).data.folder == tmp_path / "elsewhere"
    assert load_config(path, ["data.folder=clips"]).data.folder == tmp_path / "clips", "typed here, meant here"


def test_a_path_that_no_system_takes_is_reported_like_other_mistakes(write):
    path = write(
        "name: demo\n"
        'data: {list: "~nosuchuser/clips.csv", root: "a\\0b", format: csw}\n'
        "teacher: {checkpoint: " + "x" * 300 + ", epochs: 0}\n"
        'student: {checkpoint: ""}\n'
    )
    assert problems(path) == [
        'pipeline.yaml:2: data.format must be csv, kinetics, something-something or jester, got "csw"',
        'pipeline.yaml:2: data.list: there is no user nosuchuser, got "~nosuchuser/clips.csv"',
        'pipeline.yaml:2: data.root: no file or folder can have that name, got "a\\u0000b"',
        f'pipeline.yaml:3: teacher.checkpoint: file name too long, got "{"x" * 58}…',
        'pipeline.yaml:4: student.checkpoint: no file or folder can have that name, got ""',
    ]


def test_an_output_may_start_at_a_home(write, monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    assert load_config(write(MINIMAL + "output: ~/runs/a\n")).run_dir == Path("/home/someone/runs/a")


def test_settings_of_a_list_without_one_are_refused(write):
    path = write(MINIMAL.replace("{rendered: {}}", "{folder: a, root: b, format: jester}"))
    assert problems(path) == ["pipeline.yaml:2: data: format and root belong to a list, not to folder"]


def test_rendered_alone_is_told_how_to_ask_for_the_defaults(write):
    assert problems(write(MINIMAL.replace("{rendered: {}}", "{rendered: }"))) == [
        "pipeline.yaml:2: data: name exactly one of rendered, folder or list, got none; rendered: {} has its defaults"
    ]


def test_references_that_multiply_are_refused_before_they_fill_the_memory(write):
    lines = "".join(f"{name}: &{name} [{', '.join([f'*{of}'] * 10)}]\n" for of, name in pairwise("abcdefghij"))
    (problem,) = problems(write("a: &a [x]\n" + lines))
    assert problem.startswith("pipeline.yaml:1: ")
    assert problem.endswith("holds more than 100000 values, or 100 levels, references counted as often as met")


def test_the_schema_describes_every_key_and_closes_every_section():
    document = schema()
    assert document["$schema"].startswith("https://json-schema.org/")
    for section in (document, *document["$defs"].values()):
        assert section["additionalProperties"] is False
        assert section["description"]
        for key, described in section["properties"].items():
            described_there = document["$defs"].get(described.get("$ref", "").rpartition("/")[2], {})
            assert described.get("description") or described_there.get("description"), key
    assert "validate" in document["properties"], "the name in the file, not the one in the code"
    assert document["required"] == ["name", "data", "teacher", "student"]


def test_a_start_that_undoes_a_checkpoint_is_refused(write):
    told = "name: demo\ndata: {rendered: {}}\nteacher: {}\nstudent: {checkpoint: student.pth}\n"
    assert any(
        "start: teacher would undo student.checkpoint" in problem
        for problem in problems(write(told + "distill: {parameters: {start: teacher}}\n"))
    )


def test_a_run_folder_among_the_classes_is_refused(write):
    path = write("name: demo\ndata: {folder: .}\nteacher: {}\nstudent: {}\n")
    (problem,) = problems(path)
    assert problem.startswith("pipeline.yaml:2: the run folder runs/demo lies in data.folder")
    (problem,) = problems(path, "output=.")
    assert problem.startswith("--set output=.: the run folder . lies in data.folder")
    for elsewhere in ("output=../runs", "output=.runs", "data.folder=clips"):
        load_config(path, [elsewhere])


@pytest.mark.parametrize(
    ("clip", "student", "message"),
    [
        ("{normalise: clip, mean: [0.5, 0.5, 0.5]}", "{}", "mean and std are not used where normalise is clip"),
        ("{colour: motion}", "{}", "colour: motion needs normalise: clip"),
        ("{normalise: clip}", "{causal: true}", "student.causal runs frame by frame"),
        ("{}", "{generations: 2}", "student.generations must be 1"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(write, clip, student, message):
    path = write(f"name: demo\ndata: {{rendered: {{}}}}\nclip: {clip}\nteacher: {{}}\nstudent: {student}\n")
    assert any(message in problem for problem in problems(path))
