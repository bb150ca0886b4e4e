"""Parsing `defs.yaml` to a `ModelSpec`; errors have a line and suggest the nearest word."""

import difflib
from collections.abc import Sequence

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from tidemill.core.errors import SpecInvalid, TidemillError
from tidemill.core.spec import ModelSpec

KeyPath = Sequence[str | int]

_DOCUMENT_KEYS = (
    "type",
    "attributes",
    "requirements",
    "post_processing",
    "template_vars_module",
)


def parse(text: str, file: str, name: str, component_type: str) -> ModelSpec:
    """The spec in this text, of the model `name`. Raises `SpecInvalid` with one line per error.

    `file` is the name that errors contain; `component_type` the only value of `type`.
    """
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        document = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise _invalid([f"{file}:{line}: not valid YAML: {error.problem}"]) from None
    if root is None or not isinstance(document, dict):
        raise _invalid([f"{file}:1: expected a mapping with `type` and `attributes`"])
    errors = []
    for key in document:
        if key not in _DOCUMENT_KEYS:
            hint = _suggestion(key, _DOCUMENT_KEYS[:2])
            errors.append(f"{file}:{_line(root, [key])}: unknown key `{key}`{hint}")
    if document.get("type") != component_type:
        errors.append(f"{file}:{_line(root, ['type'])}: `type` must be `{component_type}`")
    try:
        spec = ModelSpec.create(name, document.get("attributes"))
    except ValidationError as error:
        errors += [_format_error(file, root, detail) for detail in error.errors()]
    except TidemillError as error:
        errors.append(f"{file}:{_line(root, ['attributes', 'windows'])}: {error}")
    if errors:
        raise _invalid(errors)
    return spec


def with_gate_overrides(spec: ModelSpec, overrides: Sequence[str]) -> ModelSpec:
    """This spec with the keys of these YAML mappings in its `gate`; later mappings take precedence.

    Raises `SpecInvalid`.
    """
    changes: dict[str, object] = {}
    for text in overrides:
        try:
            keys = yaml.safe_load(text)
        except yaml.MarkedYAMLError as error:
            raise _invalid([f"{text!r} is not valid YAML: {error.problem}"]) from None
        if not isinstance(keys, dict):
            raise _invalid([f"{text!r} is not a mapping of keys of `gate`"])
        changes |= keys
    gate = spec.gate.model_dump(exclude_unset=True) | changes
    parts = {name: getattr(spec, name) for name in spec.model_fields_set}
    try:
        return ModelSpec.create(spec.name, {**parts, "gate": gate})
    except ValidationError as error:
        root = yaml.compose("{}", Loader=yaml.SafeLoader)
        assert root is not None  # an empty mapping, in which no key has a line
        messages = [
            _format_error("", root, detail).removeprefix(":1: ") for detail in error.errors()
        ]
        raise _invalid(messages) from None


def _invalid(errors: Sequence[str]) -> SpecInvalid:
    return SpecInvalid("\n".join(errors), "\nCorrect the lines named above.")


def _format_error(file: str, root: yaml.Node, detail: ErrorDetails) -> str:
    loc = detail["loc"]
    location = f"{file}:{_line(root, ['attributes', *loc])}"
    name = ".".join(map(str, loc))
    if detail["type"] == "extra_forbidden":
        return f"{location}: unknown key `{name}`{_suggestion(str(loc[-1]), _sibling_keys(loc))}"
    if detail["type"] == "missing":
        return f"{location}: `{name}` is missing"
    message = detail["msg"].removeprefix("Value error, ")
    if detail["type"] == "literal_error":
        allowed = str(detail["ctx"]["expected"])
        choices = [word.strip(" '") for word in allowed.replace(" or ", ",").split(",")]
        message = f"expected {allowed}{_suggestion(str(detail['input']), choices)}"
    value = detail["input"]
    shown = "" if isinstance(value, dict | list) else f" is {value!r}:"
    return f"{location}: `{name}`{shown} {message}" if name else f"{location}: {message}"


def _suggestion(name: str, choices: Sequence[str]) -> str:
    matches = difflib.get_close_matches(name, choices, n=1, cutoff=0.5)
    return (
        f"; did you mean `{matches[0]}`?" if matches else f"; expected one of {', '.join(choices)}"
    )


def _sibling_keys(loc: KeyPath) -> list[str]:
    """The keys that are allowed in the place of this location's last key."""
    model: type[BaseModel] = ModelSpec
    for step in loc[:-1]:
        for name, field in model.model_fields.items():
            nested = field.annotation
            if step == (field.alias or name) and isinstance(nested, type):
                model = nested
    return [field.alias or name for name, field in model.model_fields.items()]


def _line(root: yaml.Node, path: KeyPath) -> int:
    """The line of the deepest key of `path` that the document contains."""
    node = root
    line = root.start_mark.line
    for step in path:
        if isinstance(node, yaml.MappingNode):
            pair = next((p for p in node.value if p[0].value == str(step)), None)
            if pair is None:
                break
            line = pair[0].start_mark.line
            node = pair[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(step, int):
            node = node.value[step]
            line = node.start_mark.line
        else:
            break
    return line + 1
