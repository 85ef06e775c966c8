"""YAML whose every value knows its line or the override it came from.

Read by the 1.2 core rules, so ``1e-3`` is a number and ``on``, ``no`` or ``2026-01-01`` are text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from cpd.errors import ConfigError, reason_of

MOST_VALUES, DEEPEST = 100_000, 100
"""Of a file, so that a few lines of references to each other do not fill the memory."""

KeyPath = tuple[str | int, ...]
Nodes = tuple[yaml.Node, ...]

OVERRIDE = "--set "
SHOWN_CHARACTERS = 60
"""What is longer is shortened in messages."""


@dataclass(slots=True)
class Document:
    """What a file and its overrides say, and where each part says it."""

    path: Path
    value: dict[str, Any] = field(default_factory=dict)
    origins: dict[KeyPath, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    unread: dict[KeyPath, str] = field(default_factory=dict)
    """Places whose value could not be taken in, and why."""
    taken: int = 0
    """How many values were taken in."""

    def origin(self, keys: KeyPath, *others: KeyPath) -> str:
        """Where the first of these places that is set stands, an override before others; or the section around it."""
        set_here = sorted((self.origins[key] for key in (keys, *others) if key in self.origins), key=_from_the_file)
        if set_here:
            return set_here[0]
        while keys and keys not in self.origins:
            keys = keys[:-1]
        return self.origins.get(keys, str(self.path))

    def is_override(self, keys: KeyPath) -> bool:
        return self.origin(keys).startswith(OVERRIDE)

    def override(self, text: str) -> None:
        """Takes in a ``key.path=value``; what is wrong with it goes into ``problems``."""
        origin = OVERRIDE + shortened(text)
        name, equals, written = text.partition("=")
        keys = tuple(name.strip().split("."))
        if not equals or not all(keys):
            self.problems.append(f"{origin}: write it as key=value, such as teacher.epochs=3")
            return
        section = self.value
        for depth, key in enumerate(keys[:-1], 1):
            if section.get(key) is None:
                section[key] = {}
                self.origins[keys[:depth]] = origin
            if not isinstance(section[key], dict):
                self.problems.append(f"{origin}: {dotted(keys[:depth])} is a value, not a section")
                return
            section = section[key]
        try:
            node = _Loader(written).get_single_node()
        except (yaml.YAMLError, RecursionError) as error:
            self.problems.append(f"{origin}: the value is not valid YAML: {_yaml_reason(error)}")
            return
        self.origins = {known: where for known, where in self.origins.items() if known[: len(keys)] != keys}
        self.unread = {known: why for known, why in self.unread.items() if known[: len(keys)] != keys}
        self.origins[keys] = origin
        section[keys[-1]] = None if node is None else self.take(node, keys, lambda _: origin)

    def take(self, node: yaml.Node, keys: KeyPath, where: Callable[[yaml.Node], str], around: Nodes = ()) -> Any:
        """The value of a node as JSON knows values; where its parts stand and what is wrong with them is noted.

        Raises:
            ConfigError: there is more of it than any settings need.
        """
        self.taken += 1
        if self.taken > MOST_VALUES or len(around) > DEEPEST:
            limit = f"more than {MOST_VALUES} values, or {DEEPEST} levels"
            raise ConfigError([f"{where(node)}: {dotted(keys[:1])} holds {limit}, references counted as often as met"])
        if node in around:
            return self.leave_out(keys, f"{where(node)}: {dotted(keys)} contains itself")
        if isinstance(node, yaml.SequenceNode):
            for index, item in enumerate(node.value):
                self.origins[*keys, index] = where(item)
            return [self.take(item, (*keys, index), where, (*around, node)) for index, item in enumerate(node.value)]
        if isinstance(node, yaml.MappingNode):
            section: dict[str, Any] = {}
            for key_node, value_node in node.value:
                if not isinstance(key_node, yaml.ScalarNode) or not _is_text(key_node.value):
                    self.problems.append(f"{where(key_node)}: a key must be a word")
                    continue
                name = str(key_node.value)
                if name == "<<":
                    self.problems.append(f"{where(key_node)}: << (a merge key) is not read here: write its keys out")
                    continue
                inside = (*keys, name)
                if name in section:
                    first = self.origins[inside]
                    self.problems.append(f"{where(key_node)}: {dotted(inside)} is given twice, first at {first}")
                self.origins[inside] = where(key_node)
                section[name] = self.take(value_node, inside, where, (*around, node))
            return section
        try:
            value = yaml.SafeLoader("").construct_object(node)
        except (yaml.YAMLError, ValueError) as error:
            return self.leave_out(keys, f"{where(node)}: {dotted(keys)} cannot be read: {_yaml_reason(error)}")
        if isinstance(value, bool | int | float | None):
            return value
        if not _is_text(node.value):
            return self.leave_out(keys, f"{where(node)}: {dotted(keys)} is no text: it holds half a character")
        return str(node.value)

    def leave_out(self, keys: KeyPath, problem: str) -> None:
        """Notes that the value at ``keys`` cannot be used, so that nothing more is said of it."""
        self.unread[keys] = problem


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with YAML 1.2's rules for what is a number, a truth value or nothing."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 (PyYAML's own way)


for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(0|[1-9][0-9]*)", list("-+0123456789")),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?", list("-+.0123456789")),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", list("-+.")),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first)


def read_document(path: Path) -> Document:
    """The file's values, each with its line; duplicate keys are noted as problems.

    Raises:
        ConfigError: the file is missing, unreadable, not YAML, empty or not a mapping.
    """
    try:
        root = _Loader(path.read_text(encoding="utf-8-sig")).get_single_node()
    except FileNotFoundError as error:
        raise ConfigError([f"{path}: no such file"]) from error
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read: {reason_of(error)}"]) from error
    except UnicodeDecodeError as error:
        raise ConfigError([f"{path}: is not text in UTF-8"]) from error
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise ConfigError([f"{where}: not valid YAML: {_yaml_reason(error)}"]) from error
    if root is None:
        raise ConfigError([f"{path}: is empty"], "it needs at least name, data, teacher and student")
    if not isinstance(root, yaml.MappingNode):
        raise ConfigError([f"{path}:{root.start_mark.line + 1}: must be key: value lines, such as name: demo"])
    document = Document(path)
    document.value = document.take(root, (), lambda node: f"{path}:{node.start_mark.line + 1}")
    return document


def dotted(keys: Sequence[str | int]) -> str:
    """teacher.epochs, clip.std[0]."""
    return shortened("".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys).removeprefix("."))


def shortened(text: str) -> str:
    """As much of it as a message shows."""
    return text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 1] + "…"


def _is_text(text: str) -> bool:
    """Whether it can be written down: YAML's escapes can name halves of characters."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _from_the_file(origin: str) -> bool:
    return not origin.startswith(OVERRIDE)


def _yaml_reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    reason = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
    if reason.startswith("but "):
        reason = f"{getattr(error, 'context', '')}, {reason}"
    remedies = {
        "\\t": "indent with spaces",
        "mapping values": "put a space after each colon, and text with ': ' in quotes",
    }
    remedy = next((f"; {remedy}" for words, remedy in remedies.items() if words in reason), "")
    return f"{reason}{remedy}"
