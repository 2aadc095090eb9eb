"""The project file and the environment, read here and nowhere else, as frozen settings.

``penstock.yaml`` is YAML with ``${NAME}`` and ``${NAME:-default}``; the environment variable
``PENSTOCK_SECTION__KEY`` overrides ``section: {key: ...}``. Whatever is wrong is a `ConfigError`
that names file, line, what was expected and the nearest valid name.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from penstock import DEFAULT_FILE
from penstock.errors import ConfigError
from penstock.settings import (
    AnthropicModelSettings,
    BedrockEmbedderSettings,
    ChatModelSettings,
    CohereEmbedderSettings,
    ConstantSettings,
    ConverseModelSettings,
    CrossEncoderSettings,
    DeclaredRowsSettings,
    DeclaredTableSettings,
    DynamoDBSettings,
    EmbeddedLogSettings,
    EndpointRerankerSettings,
    ExtractiveSettings,
    FilesSettings,
    FolderSettings,
    GatewaySettings,
    KafkaLogSettings,
    KafkaSettings,
    KinesisSettings,
    LateInteractionSettings,
    MiniLMSettings,
    MySQLSettings,
    NatsSettings,
    NoRerankerSettings,
    ObjectsSettings,
    PostgresSettings,
    PushSettings,
    RedisSettings,
    Settings,
    TableSettings,
    WebhookDocumentsSettings,
    WebhookSettings,
)

ENVIRONMENT_PREFIX = "PENSTOCK_"

_MOST_VALUES: Final = 20_000
_DEEPEST: Final = 30
_VARIABLE = re.compile(r"\$\$|\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")


class _Tree:
    """Plain values of a YAML file, with the line of each."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.lines: dict[tuple[str | int, ...], int | str] = {}
        self.values = 0

    def where(self, path: Sequence[str | int]) -> str:
        """The place of a value, or of the nearest one around it, as a person says it."""
        for length in range(len(path), -1, -1):
            place = self.lines.get(tuple(path[:length]))
            if isinstance(place, int):
                return f"{self.file}, line {place}"
            if place is not None:
                return place
        return self.file

    def plain(self, node: yaml.Node, path: tuple[str | int, ...]) -> Any:
        """The value of a node, remembering the line of everything in it."""
        self.values += 1
        if self.values > _MOST_VALUES or len(path) > _DEEPEST:
            # Aliases of aliases make a file of ten lines as large as one likes, or endless.
            raise ConfigError(
                f"{self.file}, line {node.start_mark.line + 1}: expected at most {_MOST_VALUES} "
                f"values, nested at most {_DEEPEST} deep, got more: is an alias (*name) inside "
                "what it stands for?"
            )
        self.lines.setdefault(path, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            result: dict[str, Any] = {}
            for key_node, value_node in node.value:
                key = str(key_node.value)
                inner = (*path, key)
                if key in result:
                    raise ConfigError(
                        f"{self.file}, line {key_node.start_mark.line + 1}: "
                        "expected each key once, "
                        f"got {key!r} again (first on line {self.lines[inner]}): remove one"
                    )
                self.lines[inner] = key_node.start_mark.line + 1
                result[key] = self.plain(value_node, inner)
            return result
        if isinstance(node, yaml.SequenceNode):
            return [self.plain(item, (*path, i)) for i, item in enumerate(node.value)]
        try:
            return _Scalars().construct_object(node)
        except (yaml.YAMLError, ValueError, LookupError, TypeError) as error:
            raise ConfigError(
                f"{self.file}, line {node.start_mark.line + 1}: expected a text, a number, true or "
                f"false, got {str(node.value)[:60]!r}, which is none of them: put it in quotes"
            ) from error


class _Scalars(yaml.SafeLoader):
    """Turns single scalar nodes into text, numbers, booleans or None."""

    def __init__(self) -> None:
        super().__init__("")


def _substitute(value: Any, environment: Mapping[str, str], where: str) -> Any:
    """Replace ``${NAME}`` and ``${NAME:-default}`` in texts; ``$$`` is a dollar sign."""

    def replacement(match: re.Match[str]) -> str:
        if match[0] == "$$":
            return "$"
        name, default = match[1], match[2]
        if environment.get(name):
            return environment[name]
        if default is not None:
            return default
        raise ConfigError(
            f"{where}: expected the environment variable {name} to be set, got nothing: "
            f"set it, or write ${{{name}:-a default}}"
        )

    return _VARIABLE.sub(replacement, value) if isinstance(value, str) else value


def _walk(
    value: Any, tree: _Tree, environment: Mapping[str, str], path: tuple[str | int, ...]
) -> Any:
    if isinstance(value, dict):
        return {k: _walk(v, tree, environment, (*path, k)) for k, v in value.items()}
    if isinstance(value, list):
        return [_walk(v, tree, environment, (*path, i)) for i, v in enumerate(value)]
    return _substitute(value, environment, tree.where(path))


def _override(raw: dict[str, Any], tree: _Tree, environment: Mapping[str, str]) -> None:
    """Apply ``PENSTOCK_SECTION__KEY=value``; values are read as YAML."""
    for variable in sorted(environment):
        if not variable.startswith(ENVIRONMENT_PREFIX):
            continue
        path = variable[len(ENVIRONMENT_PREFIX) :].lower().split("__")
        if path[0] not in Settings.model_fields:
            continue  # PENSTOCK_FILE, PENSTOCK_LOG and the like are not settings of the project
        target: Any = raw
        for part in path[:-1]:
            if not isinstance(target.get(part), dict):
                target[part] = {"type": target[part]} if isinstance(target.get(part), str) else {}
            target = target[part]
        try:
            node = yaml.compose(environment[variable], Loader=yaml.SafeLoader)
        except yaml.YAMLError:
            node = None
        inner = _Tree(variable)
        target[path[-1]] = None if node is None else inner.plain(node, ())
        tree.lines[tuple(path)] = f"environment variable {variable}"


def read_settings(
    file: str | Path = DEFAULT_FILE, *, environment: Mapping[str, str] | None = None
) -> Settings:
    """The settings of a project file, with the environment applied. Raises `ConfigError`."""
    path = Path(file)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(
            f"expected a project file at {str(path)!r}, found none: write one with "
            "`penstock init`, or name another with --file"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"expected a readable UTF-8 project file at {str(path)!r}, got: {error}"
        ) from error
    return parse_settings(text, file=path, environment=environment)


def parse_settings(
    text: str, *, file: Path = Path(DEFAULT_FILE), environment: Mapping[str, str] | None = None
) -> Settings:
    """As `read_settings`, from the text itself."""
    environment = os.environ if environment is None else environment
    tree = _Tree(str(file))
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"{file}, line {line}: expected YAML, got: {error.problem}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{file}: expected YAML, got: {error}") from error
    except RecursionError as error:
        raise ConfigError(f"{file}: expected YAML nested at most {_DEEPEST} deep") from error
    raw = {} if node is None else tree.plain(node, ())
    if not isinstance(raw, dict):
        raise ConfigError(f"{file}, line 1: expected settings such as 'project: name', got {raw!r}")
    _override(raw, tree, environment)
    raw = _walk(raw, tree, environment, ())
    if "folder" in raw:
        raise ConfigError(f"{tree.where(('folder',))}: unknown key 'folder': remove it")
    raw["folder"] = file.resolve().parent
    try:
        return Settings.model_validate(raw)
    except ValidationError as error:
        problems = [_sentence(detail, tree) for detail in error.errors(include_url=False)]
        raise ConfigError("\n".join(problems)) from None


def _keys(path: Sequence[str | int]) -> list[str]:
    """The keys that are valid beside the last part of a path, as far as they can be told."""
    current: Any = Settings
    declared = False
    for i, part in enumerate(path[:-1]):
        field = current.model_fields.get(part) if current is not None else None
        table = DeclaredTableSettings if declared else TableSettings
        current = table if i and path[i - 1] == "tables" else _TAGGED.get(str(part))
        declared |= isinstance(current, type) and issubclass(current, DeclaredRowsSettings)
        if current is None and field is not None and isinstance(field.annotation, type):
            current = field.annotation if issubclass(field.annotation, BaseModel) else None
    return [name for name in current.model_fields if name != "folder"] if current else []


_SECRET_NAMES = ("dsn", "key", "password", "secret", "token", "options")
"""What a setting is called whose value no message shows."""

_SOURCES: dict[str, Any] = {
    "kafka": KafkaSettings,
    "redis": RedisSettings,
    "nats": NatsSettings,
    "postgres": PostgresSettings,
    "mysql": MySQLSettings,
    "files": FilesSettings,
    "objects": ObjectsSettings,
    "webhook": WebhookSettings,
    "webhook_documents": WebhookDocumentsSettings,
    "push": PushSettings,
    "dynamodb": DynamoDBSettings,
    "kinesis": KinesisSettings,
}
_TAGGED: dict[str, Any] = {
    **_SOURCES,
    "minilm": MiniLMSettings,
    "constant": ConstantSettings,
    "folder": FolderSettings,
    "cohere": CohereEmbedderSettings,
    "bedrock": BedrockEmbedderSettings,
    "extractive": ExtractiveSettings,
    "chat": ChatModelSettings,
    "anthropic": AnthropicModelSettings,
    "converse": ConverseModelSettings,
    "gateway": GatewaySettings,
    "late_interaction": LateInteractionSettings,
    "none": NoRerankerSettings,
    "endpoint": EndpointRerankerSettings,
    "cross_encoder": CrossEncoderSettings,
    "embedded": EmbeddedLogSettings,
    "kafka": KafkaLogSettings,
}


def _sentence(detail: ErrorDetails, tree: _Tree) -> str:
    """One problem, as a sentence with its place."""
    path = detail["loc"]
    # Tags of unions and of validators stand in pydantic's path but not in the file.
    shown = [
        part for i, part in enumerate(path) if not (i and str(part) in _TAGS and _is_tag(path, i))
    ]
    where = tree.where(shown)
    name = ".".join(str(part) for part in shown)
    if detail["type"] == "extra_forbidden":
        valid = _keys(path)
        near = difflib.get_close_matches(str(path[-1]), valid, n=1, cutoff=0.5)
        hint = f": did you mean {near[0]!r}?" if near else ""
        known = f" (known here: {', '.join(valid)})" if valid and not near else ""
        return f"{where}: unknown key {name!r}{hint}{known}"
    if detail["type"] == "missing":
        return f"{where}: expected a value for {name!r}, found none: add it"
    if detail["type"] in {"union_tag_invalid", "literal_error"}:
        context = detail.get("ctx", {})
        if detail["type"] == "union_tag_invalid":
            where = tree.where([*shown, "type"])
        expected = str(context.get("expected_tags", context.get("expected", "")))
        got = str(context.get("tag", detail["input"]))
        near = difflib.get_close_matches(got, re.findall(r"'([^']+)'", expected), n=1, cutoff=0.4)
        hint = f": did you mean {near[0]!r}?" if near else ""
        return f"{where}: expected {name} to be one of {expected}, got {got!r}{hint}"
    if detail["type"] == "union_tag_not_found":
        kinds = ", ".join(_SOURCES)
        return f"{where}: expected a 'type' in {name!r} (for a source: {kinds}), found none"
    message = detail["msg"].removeprefix("Value error, ")
    message = message.removeprefix(f"{name}: ")
    secret = any(word in name for word in _SECRET_NAMES)
    got = "" if secret or detail["type"] == "value_error" else f", got {detail['input']!r}"
    return f"{where}: {name}: {message[:1].lower()}{message[1:]}{got}"


_TAGS = frozenset({*_TAGGED, "openai", "[key]"})


def _is_tag(path: Sequence[str | int], i: int) -> bool:
    """Whether part ``i`` is the tag of a union: it follows a source's name or a typed setting."""
    before = path[i - 1]
    return (
        path[i] == "[key]"
        or before in {"embedder", "generator", "reranker"}
        or (i == 1 and before == "log")
        or (i == 2 and path[0] == "models")
        or (i == 2 and path[0] == "sources")
    )


def substitute(text: str) -> str:
    """A text with ``${NAME}`` replaced by the environment, as in the project file."""
    return str(_substitute(text, os.environ, repr(text)))


def boundary_file(environment: Mapping[str, str] | None = None) -> Path | None:
    """The file by which a campaign says where the process shall end (``PENSTOCK_BOUNDARIES``)."""
    named = (os.environ if environment is None else environment).get("PENSTOCK_BOUNDARIES")
    return Path(named) if named else None


def secret_file(path: Path) -> str:
    """What a file holds that has a secret: its text, without the end of the line."""
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise ConfigError(
            f"expected a readable file with a secret at {str(path)!r}, but {reason}"
        ) from error


def cohere_api_key(environment: Mapping[str, str] | None = None) -> str | None:
    """The key that Cohere's own clients would use, if there is one."""
    return (os.environ if environment is None else environment).get("CO_API_KEY")


def anthropic_api_key(environment: Mapping[str, str] | None = None) -> str | None:
    """The key that Anthropic's own clients would use, if there is one."""
    return (os.environ if environment is None else environment).get("ANTHROPIC_API_KEY")


def openai_api_key(environment: Mapping[str, str] | None = None) -> str | None:
    """The key that OpenAI's own clients would use, if there is one."""
    return (os.environ if environment is None else environment).get("OPENAI_API_KEY")


def json_schema() -> dict[str, Any]:
    """The JSON Schema of the project file, for editors."""
    schema = Settings.model_json_schema()
    schema["properties"].pop("folder", None)
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "penstock.yaml"
    return schema
