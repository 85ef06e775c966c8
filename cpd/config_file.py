"""Reads a pipeline.yaml into ``cpd.config`` types, and reports every problem at once, each with where it stands."""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from cpd.config import Pipeline
from cpd.config.section import Section
from cpd.dataset import natural_key
from cpd.document import OVERRIDE, Document, KeyPath, dotted, read_document, shortened
from cpd.errors import ConfigError, reason_of

PATHS_READ = (
    ("data", "folder"), ("data", "list"), ("data", "root"), ("teacher", "checkpoint"), ("student", "checkpoint"),
)  # fmt: skip
"""Keys that name something to read; ``output`` is written, and stays relative to the current folder."""


def load_config(path: Path, overrides: Sequence[str] = ()) -> Pipeline:
    """Reads and checks a pipeline.yaml.

    Args:
        path: the file.
        overrides: ``key.path=value`` each, the value in YAML; they replace what the file says.

    Raises:
        ConfigError: the file cannot be read, or what it and the overrides say is wrong; with every problem found.
    """
    document = read_document(path)
    for override in overrides:
        document.override(override)
    _resolve_paths(document)
    try:
        # JSON's strict mode takes a list for a tuple and text for a path, but never text for a number.
        config = Pipeline.model_validate_json(json.dumps(document.value), strict=True)
    except ValidationError as error:
        document.problems += _problems(error, document)
    problems = [*document.problems, *document.unread.values()]
    if problems:
        raise ConfigError(sorted(problems, key=_file_first))
    return config


def schema() -> dict[str, Any]:
    """The JSON Schema of pipeline.yaml, with which editors complete and check it."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **Pipeline.model_json_schema(),
        "title": "pipeline.yaml of cpd",
    }


def _resolve_paths(document: Document) -> None:
    """Makes the paths to read absolute: the file's start at its own folder if they exist there."""
    for place in (*PATHS_READ, ("output",)):
        *section, key = place
        values = document.value.get(section[0]) if section else document.value
        if not isinstance(values, dict) or not isinstance(values.get(key), str):
            continue
        try:
            chosen = _path(values[key])
            beside = document.path.parent / chosen
            if section and not document.is_override(place) and beside.exists():
                chosen = beside
            chosen.exists()  # raises for a name that no file can have
        except (ValueError, OSError) as error:
            reason = reason_of(error) if isinstance(error, OSError) else str(error)
            document.leave_out(place, f"{document.origin(place)}: {dotted(place)}: {reason}, got {_shown(values[key])}")
            continue
        values[key] = os.path.normpath(chosen.absolute()) if section else str(chosen)


def _path(text: str) -> Path:
    if not text or "\0" in text:
        raise ValueError("no file or folder can have that name")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise ValueError(f"there is no user {shortened(text[1:].partition('/')[0])}") from error


def _problems(error: ValidationError, document: Document) -> list[str]:
    """One line for each place that is wrong, and for each rule that several keys break together."""
    by_place: dict[KeyPath, list[tuple[KeyPath, Any]]] = {}
    for detail in error.errors(include_url=False):
        place = _place(detail["loc"], document.value, missing=detail["type"] == "missing")
        if detail["type"] != "value_error" or not isinstance(_value_at(place, document.value), dict):
            by_place.setdefault(place, []).append((detail["loc"], detail))
    unknown = [place for place, found in by_place.items() if found[0][1]["type"] == "extra_forbidden"]
    wrong = {*by_place, *document.unread, *filter(None, map(_close_key, unknown))}
    lines = _broken_rules(_right_part(Pipeline, document.value, wrong), document, wrong)
    for place, found in by_place.items():
        if any(_overlap(place, unread) for unread in document.unread):
            continue
        # Where several types are allowed, the one whose type fits tells best what is wrong.
        fitting = [entry for entry in found if not entry[1]["type"].endswith("_type")]
        location, detail = (fitting or found)[-1]
        problem = _in_words(place, location, detail, len(found), document)
        lines.append(f"{document.origin(place)}: {problem}")
    return lines


def _right_part(kind: type[Section], values: dict[str, Any], wrong: Collection[KeyPath], at: KeyPath = ()) -> Section:
    """A section of a file in which some places are wrong: defaults stand for those."""
    kept: dict[str, Any] = {}
    for name, info in kind.model_fields.items():
        key = info.alias or name
        value, inner = values.get(key), _section_of(info)
        if inner and (isinstance(value, dict) or info.is_required()):
            kept[name] = _right_part(inner, value if isinstance(value, dict) else {}, wrong, (*at, key))
        elif key in values and not any(place[: len(at) + 1] == (*at, key) for place in wrong):
            kept[name] = value
    return kind.model_construct(**kept)


def _broken_rules(section: Section, document: Document, wrong: Collection[KeyPath], at: KeyPath = ()) -> list[str]:
    """What a section and those in it say of several keys together, but where one of the keys is wrong by itself."""
    lines = []
    for keys, text in section.mistakes():
        places = [(*at, *(key.split(".") if isinstance(key, str) else key)) for key in keys]
        if not any(_overlap(place, bad) for place in places for bad in wrong):
            lines.append(f"{document.origin(*places)}: {dotted(at)}{': ' if at else ''}{text}")
    for name, info in type(section).model_fields.items():
        inner = getattr(section, name, None)
        if isinstance(inner, Section):
            lines += _broken_rules(inner, document, wrong, (*at, info.alias or name))
    return lines


def _overlap(one: KeyPath, other: KeyPath) -> bool:
    """Whether two places are the same, or one holds the other."""
    return all(step == step_there for step, step_there in zip(one, other, strict=False))


def _in_words(place: KeyPath, location: KeyPath, detail: Any, complaints: int, document: Document) -> str:
    """What is wrong with the value at ``place``, in plain words."""
    name, kind, context = dotted(place), detail["type"], detail.get("ctx", {})
    value = _value_at(place, document.value)
    if kind == "extra_forbidden":
        return f"{name} is not a key here{_meant(place)}"
    if kind == "missing" and not isinstance(location[-1], int):
        return f"{name} is missing"
    if kind == "value_error":
        return f"{name} {context['error']}"
    got = f", got {_shown(value)}"
    if kind == "literal_error":
        choices = re.findall(r"'([^']*)'", context["expected"])
        close = difflib.get_close_matches(str(value).lower(), choices, 1, cutoff=0.7)
        return f"{name} must be {_either(choices)}{got}" + (f", did you mean {close[0]}?" if close else "")
    if complaints > 1 and kind.endswith("_type"):
        return f"{name} must be a whole number or a list of them{got}"
    words = {
        "greater_than_equal": "at least {ge:g}",
        "greater_than": "more than {gt:g}",
        "less_than_equal": "at most {le:g}",
        "less_than": "less than {lt:g}",
        "multiple_of": "a multiple of {multiple_of:g}",
        "int_type": "a whole number",
        "float_type": "a number",
        "finite_number": "a finite number",
        "bool_type": "true or false",
        "string_type": "text" + (" (put it in quotes)" if isinstance(value, int | float) else ""),
        "path_type": "a path",
        "string_pattern_mismatch": "text of the form {pattern}",
        "model_type": "a section of key: value lines",
        "dict_type": "a section of key: value lines",
        "tuple_type": "a list in brackets",
        "too_long": "a list of {max_length}",
        "too_short": "a list of at least {min_length}",
        "missing": f"a list of {int(location[-1]) + 1 if isinstance(location[-1], int) else 0}",
    }
    if kind in words:
        return f"{name} must be {words[kind].format(**context)}{got}"
    return f"{name}: {detail['msg'].replace('Input should', 'must')}{got}"


def _meant(place: KeyPath) -> str:
    """What an unknown key may have been meant to be: a key of the same section, or one of another."""
    close = _close_key(place)
    elsewhere = [dotted(known) for known in _known_keys(Pipeline) if known[-1] == place[-1]]
    if close or elsewhere:
        return f", did you mean {close[-1] if close else _either(elsewhere)}?"
    return f"; {dotted(place[:-1]) or 'pipeline.yaml'} has {', '.join(_keys_of(place[:-1]))}"


def _close_key(place: KeyPath) -> KeyPath | None:
    """The key of the same section that an unknown one may have been meant to be."""
    close = difflib.get_close_matches(str(place[-1]), _keys_of(place[:-1]), 1)
    return (*place[:-1], close[0]) if close else None


def _keys_of(section: KeyPath) -> list[str]:
    return [known[-1] for known in _known_keys(Pipeline) if known[:-1] == section]


def _known_keys(section: type[Section], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, info in section.model_fields.items():
        key = (*above, info.alias or name)
        yield key
        inner = _section_of(info)
        if inner:
            yield from _known_keys(inner, key)


def _section_of(info: FieldInfo) -> type[Section] | None:
    """The type of a key that holds a section."""
    kinds = (info.annotation, *get_args(info.annotation))
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Section)), None)


def _place(location: KeyPath, value: Any, missing: bool) -> KeyPath:
    """The part of pydantic's location that the document has, without the type names it adds inside a choice of types.

    A missing key is kept as the last step; a missing list item is a fault of its list.
    """
    for depth, step in enumerate(location):
        steps = value if isinstance(value, dict) else dict(enumerate(value)) if isinstance(value, list) else {}
        if step not in steps:
            is_last = depth == len(location) - 1
            return location if missing and is_last and isinstance(value, dict) else location[:depth]
        value = steps[step]
    return location


def _value_at(place: KeyPath, value: Any) -> Any:
    for step in place:
        value = value.get(step) if isinstance(value, dict) else value[step]
    return value


def _shown(value: Any) -> str:
    return shortened("nothing" if value is None else json.dumps(value, ensure_ascii=False))


def _either(choices: Sequence[str]) -> str:
    return " or ".join(filter(None, [", ".join(choices[:-1]), choices[-1]]))


def _file_first(problem: str) -> tuple[bool, tuple[tuple[int, int | str], ...]]:
    return problem.startswith(OVERRIDE), natural_key(problem)
