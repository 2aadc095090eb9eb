"""The page that shows Penstock tried as a new user would: `docs/transcript.md`.

    uv run --group large python tools/transcript.py            # try everything, write the page
    uv run --group large python tools/transcript.py --check    # try everything, compare with it

Starts ``penstock run`` in an empty folder and asks it with curl and with the official clients of
OpenAI, of MCP and of LangChain, each as a program of its own. What stands in the page is what was
said. Only the key is blackened, the folder is called ``/home/you/handbook-project``, and the port
is 8321, whichever was free. A check compares all but what differs each time: ages, times, ids,
counts of tokens, scores, and the ends of long lines, which are cut.
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
PAGE: Final = ROOT / "docs" / "transcript.md"
PLACE: Final = "/home/you/handbook-project"
PORT: Final = 8321
START_S: Final = 120.0
_LONGEST: Final = 520
_COMPARED: Final = 220
"""Of a line that is cut, so many characters are compared."""

HEAD: Final = """# Tried as a new user would

Made by `python tools/transcript.py`, which does all of this in an empty folder and writes down what
was said; `--check` does it again and compares (all but ages, times, ids, scores and counts of
tokens). A test does so as well. The key is blackened, long lines are cut.
"""

PROJECT: Final = """\
project: handbook
sources:
  handbook: {type: files, path: handbook, heartbeat: 500ms}
  notes: {type: push, heartbeat: 500ms}
"""
LUGGAGE: Final = """\
# Luggage

Every passenger takes one bag of up to 23 kg along. A second bag costs 40 euros.

# Cancellation

A flight can be cancelled free of charge until 24 hours before departure.
"""

OPENAI: Final = """\
import os

from openai import OpenAI

client = OpenAI(base_url="http://127.0.0.1:8321/v1", api_key=os.environ["KEY"])
models = [model.id for model in client.models.list()]
print(models)

question = [{"role": "user", "content": "Until when can I cancel a flight?"}]
answer = client.chat.completions.create(model="penstock", messages=question)
print(answer.choices[0].message.content)
for found in answer.choices[0].message.annotations:
    print(found.type, found.url_citation.url, repr(found.url_citation.title))
print(answer.model_extra["penstock"]["sources"])

for piece in client.chat.completions.create(model="penstock", messages=question, stream=True):
    if piece.choices and piece.choices[0].delta.content:
        print(repr(piece.choices[0].delta.content))

response = client.responses.create(
    model="penstock",
    input="What does a second bag cost?",
    tools=[{"type": "file_search", "vector_store_ids": ["handbook"]}],
)
print(response.output_text)

print(len(client.embeddings.create(model=models[1], input="luggage").data[0].embedding))
for found in client.vector_stores.search("handbook", query="second bag", max_num_results=1):
    print(found.filename, round(found.score, 3), found.content[0].text[:60])
"""
MCP: Final = """\
import asyncio
import os

import httpx2
from mcp.client import Client
from mcp.client.streamable_http import streamable_http_client


async def main():
    headers = {"Authorization": "Bearer " + os.environ["KEY"]}
    async with httpx2.AsyncClient(headers=headers) as http:
        transport = streamable_http_client("http://127.0.0.1:8321/mcp", http_client=http)
        async with Client(transport) as client:
            print([tool.name for tool in (await client.list_tools()).tools])
            templates = await client.list_resource_templates()
            print([template.uri_template for template in templates.resource_templates])
            found = await client.call_tool("search", {"query": "second bag"})
            results = found.structured_content["results"]
            print(results[0]["id"], "|", results[0]["title"])
            whole = await client.call_tool("fetch", {"id": results[0]["id"]})
            print(whole.structured_content["text"][:80])
            asked = await client.call_tool("ask", {"question": "What does a second bag cost?"})
            print(asked.structured_content["text"])
            page = await client.read_resource("document://handbook/luggage.md")
            print(page.contents[0].text[:30])


asyncio.run(main())
"""
LANGCHAIN: Final = """\
import os

from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnablePassthrough
from langchain_openai import ChatOpenAI

from penstock.clients.langchain import PenstockRetriever

retriever = PenstockRetriever(url="http://127.0.0.1:8321", api_key=os.environ["KEY"], k=2)
for document in retriever.invoke("second bag"):
    print(document.metadata["url"], document.metadata["source"], document.page_content[:40])

model = ChatOpenAI(base_url="http://127.0.0.1:8321/v1", api_key=os.environ["KEY"], model="penstock")
chain = (
    {"question": RunnablePassthrough()}
    | ChatPromptTemplate.from_messages([("user", "{question}")])
    | model
    | StrOutputParser()
)
print(chain.invoke("Until when can I cancel a flight?"))
print("".join(chain.stream("What does a second bag cost?")))
"""
AUTH: Final = '-H "Authorization: Bearer $KEY"'
JSON: Final = '-H "Content-Type: application/json"'
URL: Final = f"http://127.0.0.1:{PORT}"
CURLS: Final = (
    f"curl -s {URL}/readyz",
    f"curl -s {URL}/v1/models",
    (
        f'curl -s {AUTH} {JSON} -d \'{{"question": "What does a second bag cost?", "limit": 1}}\' '
        f"{URL}/v1/context"
    ),
    f'curl -s {AUTH} {JSON} -d \'{{"question": "What does a second bag cost?"}}\' {URL}/v1/answer',
    (
        f'curl -s -X PUT {AUTH} -H "Content-Type: text/markdown" --data "# Pets\n\nA cat flies '
        f'for 75 euros." {URL}/v1/documents/notes/pets.md'
    ),
    f'curl -s {AUTH} {JSON} -d \'{{"question": "What does a cat cost?"}}\' {URL}/v1/answer',
    f"curl -s -X DELETE {AUTH} {URL}/v1/documents/notes/pets.md",
    f'curl -s {AUTH} {JSON} -d \'{{"question": "What does a cat cost?"}}\' {URL}/v1/answer',
    (
        f'curl -s -N {AUTH} {JSON} -d \'{{"model": "penstock", "stream": true, "messages": '
        '[{"role": "user", "content": "What does a second bag cost?"}]}\' '
        f"{URL}/v1/chat/completions | head -n 3"
    ),
    f"curl -s {AUTH} {JSON} -d '{{\"question\": 7}}' {URL}/v1/context",
    f'curl -s {AUTH} {JSON} -d \'{{"model": "gpt-5"\' {URL}/v1/chat/completions',
)
_VARIES: Final = (
    (r"^key \w{12}:", "key ID:"),
    (r"psk_[A-Za-z0-9_-]+", "psk_KEY"),
    (r'"?\b(chatcmpl|resp|msg|fs|ans|ctx|int)[-_][A-Za-z0-9_-]+', "ID"),
    (r"\b[0-9a-f]{16,}\b", "ID"),
    (r"\d{4}-\d\d-\d\dT[\d:.+-]+Z?", "TIME"),
    (r"@\d{10,}", "@POSITION"),
    (r"\b\d{9,}\b", "TIME"),
    (r"\d+\.\d+", "N"),
    (r'("(?:age_ms|[a-z_]*tokens|total|took_ms|[a-z_]+_ms)": ?)\d+', r"\1N"),
    (r"('age_ms': )\d+", r"\1N"),
)


class Trial:
    """A folder, what is done in it, and what is said."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._port = _free_port()
        self._lines = [HEAD]
        self._environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("PENSTOCK_")},
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PENSTOCK_SERVER__PORT": str(self._port),
            "PYTHONUNBUFFERED": "1",
            "COLUMNS": "100",
        }

    def page(self) -> str:
        """All of it."""
        return "\n".join(self._lines)

    def say(self, text: str) -> None:
        """Words between what is done."""
        self._lines.append(text)

    def write(self, name: str, text: str, language: str) -> None:
        """A file of the user's."""
        path = self._folder / name
        path.parent.mkdir(exist_ok=True)
        # `{URL}` in a program is where the server really is.
        path.write_text(text.replace(f":{PORT}", f":{self._port}"), encoding="utf-8")
        self._lines.append(f"`{name}`:\n\n```{language}\n{text.rstrip()}\n```\n")

    def do(self, *commands: str) -> None:
        """Commands, one after the other, with what each says; one that fails ends it all."""
        said = [f"$ {command}\n{self.run(command)}".rstrip("\n") for command in commands]
        self._lines.append("```console\n" + "\n".join(said) + "\n```\n")

    def run(self, command: str) -> str:
        """What a command says, as it stands in the page."""
        return self._clean(self._run(command))

    def _run(self, command: str) -> str:
        real = command.replace(f":{PORT}", f":{self._port}")
        done = subprocess.run(
            ["bash", "-c", real],
            cwd=self._folder,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        if done.returncode:
            raise SystemExit(f"{command} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        return done.stdout

    def key(self, command: str) -> None:
        """The command that makes a key, which is kept for what follows."""
        said = self._run(command)
        found = re.search(r"psk_[A-Za-z0-9_-]+", said)
        assert found is not None, said
        self._environment["KEY"] = found[0]
        self._lines.append(f"```console\n$ {command}\n{self._clean(said)}```\n")

    def start(self, command: str, until: str) -> subprocess.Popen[str]:
        """A command that goes on, with what it says until it says something."""
        process = subprocess.Popen(
            ["bash", "-c", f"exec {command}"],
            cwd=self._folder,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert process.stdout is not None
        said = ""
        deadline = time.monotonic() + START_S
        while until not in said:
            line = process.stdout.readline()
            if not line or time.monotonic() > deadline:
                process.kill()
                raise SystemExit(f"{command} never said {until!r}: {said}")
            said += line
        self._lines.append(f"```console\n$ {command}\n{self._clean(said)}```\n")
        return process

    def end(self, process: subprocess.Popen[str], number: signal.Signals) -> None:
        """Ctrl-C, and what is said to it."""
        process.send_signal(number)
        assert process.stdout is not None
        said = process.stdout.read()
        process.wait(60)
        self._lines.append(f"```console\n^C\n{self._clean(said)}```\n")

    def _clean(self, text: str) -> str:
        text = text.replace(str(self._folder), PLACE).replace(f":{self._port}", f":{PORT}")
        lines = [line.rstrip() for line in text.split("\n")]
        cut = [line if len(line) <= _LONGEST else f"{line[:_LONGEST]}…" for line in lines]
        return _blackened("\n".join(cut))


def _blackened(text: str) -> str:
    return re.sub(r"psk_[A-Za-z0-9_-]+", "psk_████████", text)


def _free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def tried(folder: Path) -> str:
    """Do all of it; the page."""
    trial = Trial(folder)
    trial.say("## A project, and a run\n")
    trial.write("penstock.yaml", PROJECT, "yaml")
    trial.write("handbook/luggage.md", LUGGAGE, "markdown")
    process = trial.start("penstock run", "everything is in step")
    try:
        trial.say("In another terminal:\n")
        trial.key("penstock keys create me -s ask -s embed -s write")
        trial.say("`export KEY=psk_...` is what it gave.\n\n## curl\n")
        for command in CURLS:
            trial.do(command)
        for name, program, title in (
            ("with_openai.py", OPENAI, "The official client of OpenAI"),
            ("with_mcp.py", MCP, "The official client of the Model Context Protocol"),
            ("with_langchain.py", LANGCHAIN, "A chain of LangChain"),
        ):
            trial.say(f"## {title}\n")
            trial.write(name, program, "python")
            trial.do(f"python {name}")
        trial.say("## The end\n")
        trial.end(process, signal.SIGINT)
    finally:
        process.kill()
        process.wait()
    return trial.page()


def same(text: str) -> str:
    """A page without what differs each time."""
    for pattern, stands in _VARIES:
        text = re.sub(pattern, stands, text, flags=re.MULTILINE)
    # What was cut ends elsewhere each time.
    return re.sub(rf"^(.{{{_COMPARED}}}).*…$", r"\1…", text, flags=re.MULTILINE)


def main() -> int:
    """Write the page, or compare with it."""
    parser = argparse.ArgumentParser(description="The page of what was tried.")
    parser.add_argument("--check", action="store_true", help="compare with the page")
    check = parser.parse_args().check
    folder = Path(tempfile.mkdtemp(prefix="penstock-tried-", dir="/tmp"))
    folder.chmod(0o755)
    try:
        page = tried(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if not check:
        PAGE.write_text(page, encoding="utf-8")
        return 0
    old, new = (same(text).splitlines() for text in (PAGE.read_text(encoding="utf-8"), page))
    found = list(difflib.unified_diff(old, new, "docs/transcript.md", "now", lineterm="", n=1))
    print("\n".join(found) or "as it stands in docs/transcript.md")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
