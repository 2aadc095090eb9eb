"""The project file: what is accepted, and how what is wrong is said."""

from __future__ import annotations

from pathlib import Path

import jsonschema
import pytest
import yaml

from penstock.config import json_schema, parse_settings, read_settings, substitute
from penstock.errors import ConfigError
from penstock.settings import ChatModelSettings, FilesSettings, PostgresSettings

GOOD = """\
project: travel
sources:
  travel:
    type: postgres
    dsn: ${DSN:-postgresql://reader:secret@host/db}
    tables:
      flights: {searched: [number], shown: [price]}
      hotels:
  handbook:
    type: files
    path: ./policies
log: {keep: 3d, keep_size: 1 GB}
"""


def parse(text: str, **environment: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_settings(text, environment=environment)
    return str(caught.value)


def test_defaults_are_filled_in() -> None:
    """A file names sources; everything else has a default."""
    settings = parse_settings(GOOD, environment={})
    assert settings.database == "embedded"
    assert settings.log.keep == 3 * 86400
    assert settings.log.keep_size == 10**9
    travel = settings.sources["travel"]
    assert isinstance(travel, PostgresSettings)
    assert travel.dsn.get_secret_value() == "postgresql://reader:secret@host/db"
    assert travel.tables["hotels"].shown is None
    handbook = settings.sources["handbook"]
    assert isinstance(handbook, FilesSettings)
    assert handbook.path == Path("policies")


def test_tables_may_be_a_list() -> None:
    """A list of names takes the defaults for each."""
    text = GOOD.replace(
        "    tables:\n      flights: {searched: [number], shown: [price]}\n      hotels:\n",
        "    tables: [flights, 'public.*']\n",
    )
    travel = parse_settings(text, environment={}).sources["travel"]
    assert isinstance(travel, PostgresSettings)
    assert list(travel.tables) == ["flights", "public.*"]


def test_variables_are_replaced_and_have_defaults() -> None:
    """``${NAME}`` comes from the environment; ``:-`` gives a default; ``$$`` is a dollar."""
    settings = parse_settings(GOOD, environment={"DSN": "postgresql://other/$$5"})
    travel = settings.sources["travel"]
    assert isinstance(travel, PostgresSettings)
    assert travel.dsn.get_secret_value() == "postgresql://other/$$5"
    assert "NOPE" in parse(GOOD.replace("${DSN:-postgresql://reader:secret@host/db}", "${NOPE}"))


def test_the_environment_overrides() -> None:
    """``PENSTOCK_SECTION__KEY`` wins over the file, with YAML's types."""
    settings = parse_settings(
        GOOD,
        environment={
            "PENSTOCK_RUN__BATCH": "77",
            "PENSTOCK_KNOWLEDGE__EMBEDDER": "constant",
            "PENSTOCK_SOURCES__HANDBOOK__PATH": "/other",
            "PENSTOCK_DEBUG": "1",
        },
    )
    assert settings.run.batch == 77
    assert settings.knowledge.embedder.type == "constant"
    handbook = settings.sources["handbook"]
    assert isinstance(handbook, FilesSettings)
    assert handbook.path == Path("/other")


@pytest.mark.parametrize(
    ("broken", "line", "said"),
    [
        (GOOD + "databse: x\n", 13, "did you mean 'database'"),
        (GOOD.replace("searched", "serched"), 7, "did you mean 'searched'"),
        (GOOD.replace("type: files", "type: fils"), 10, "did you mean 'files'"),
        (GOOD.replace("3d", "3 days"), 12, "expected a duration"),
        (GOOD.replace("1 GB", "1 gigabyte"), 12, "expected a size"),
        (GOOD.replace("project: travel", "project: Tra vel"), 1, "lower-case letters"),
        (GOOD.replace("    path: ./policies\n", ""), 9, "'sources.handbook.path', found none"),
        (GOOD.replace("  handbook:", "  penstock:"), 2, "another meaning"),
        (GOOD + "database: nonsense\n", 1, "expected 'embedded' or a DSN"),
        (GOOD + "run: {batch: many}\n", 13, "run.batch"),
        (GOOD + "run: {batch: -1}\n", 13, "got -1"),
        ("project: x\nproject: y\n", 2, "got 'project' again"),
        ("project: [", 1, "expected YAML"),
        ("hello", 1, "got 'hello'"),
        (GOOD + "folder: /etc\n", 13, "unknown key 'folder'"),
    ],
)
def test_a_mistake_is_named_with_its_line(broken: str, line: int, said: str) -> None:
    """File, line, what was expected, and the nearest valid name."""
    message = parse(broken)
    assert f"penstock.yaml, line {line}: " in message, message
    assert said in message


def test_a_wrong_variable_is_named() -> None:
    """A bad override names the variable, not a line of the file."""
    message = parse(GOOD, PENSTOCK_RUN__BATCH="lots")
    assert "environment variable PENSTOCK_RUN__BATCH" in message


def test_secrets_are_not_repeated() -> None:
    """Neither errors nor representations show a DSN."""
    text = GOOD.replace("${DSN:-postgresql://reader:secret@host/db}", "[hunter2]")
    assert "hunter2" not in parse(text)
    assert "secret" not in repr(parse_settings(GOOD, environment={}))


def test_a_missing_file_says_what_to_do(tmp_path: Path) -> None:
    """Without a project file, the sentence names `penstock init`."""
    with pytest.raises(ConfigError, match="penstock init"):
        read_settings(tmp_path / "penstock.yaml")


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    """Bytes that are no UTF-8 are one sentence, not a traceback."""
    file = tmp_path / "penstock.yaml"
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="UTF-8"):
        read_settings(file)


def test_yaml_cannot_run_code() -> None:
    """Tags that construct objects are not honoured."""
    text = GOOD + "answers: {prompt: !!python/object/apply:os.system ['true']}\n"
    assert "answers" in parse(text)


def test_the_schema_accepts_what_we_accept() -> None:
    """The published JSON Schema holds for a good file and not for a typo."""
    schema = json_schema()
    jsonschema.validate(yaml.safe_load(GOOD), schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(yaml.safe_load(GOOD + "databse: x\n"), schema)


def test_paths_start_at_the_project_file(tmp_path: Path) -> None:
    """A relative path means relative to the file, wherever the command runs."""
    file = tmp_path / "penstock.yaml"
    file.write_text(GOOD, encoding="utf-8")
    settings = read_settings(file, environment={})
    assert settings.path(Path("./policies")) == tmp_path.resolve() / "policies"


def test_substitute_is_the_same_for_command_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    """`penstock init --postgres '${MY_DSN}'` reads the variable as the file would."""
    monkeypatch.setenv("MY_DSN", "postgresql://here")
    assert substitute("${MY_DSN}") == "postgresql://here"


CHAT = """
models:
  small: {type: openai, model: e, dimensions: 8}
  writer: {type: chat, model: m, input_price: 1, output_price: 4, budget: {cost_per_day: 2}}
knowledge: {embedder: small}
answers: {generator: writer}
"""


def test_models_are_found_by_their_name() -> None:
    """Embedders and chat models stand side by side; each is taken where it fits."""
    settings = parse_settings(GOOD + CHAT, environment={})
    assert settings.answers.generator == settings.models["writer"]
    assert settings.knowledge.embedder == settings.models["small"]
    assert list(settings.embedders) == ["small"]
    assert "expected knowledge.embedder to be one of" in parse(
        GOOD + CHAT.replace("embedder: small", "embedder: writer")
    )
    assert "set input_price and output_price" in parse(GOOD + CHAT.replace("input_price: 1, ", ""))
    streamed = parse_settings(
        GOOD + CHAT.replace("model: m", "model: m, structured: false"), environment={}
    ).answers.generator
    assert isinstance(streamed, ChatModelSettings)
    assert (streamed.structured, streamed.budget.cost_per_day) == (False, 2)
    jsonschema.validate(yaml.safe_load(GOOD + CHAT), json_schema())
