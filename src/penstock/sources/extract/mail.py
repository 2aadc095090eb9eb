"""Mail (.eml) to Markdown: its heads, its body, and what is attached as sections of their own."""

from __future__ import annotations

import binascii
from collections.abc import Callable, Iterator
from dataclasses import replace
from email import errors, policy
from email.message import EmailMessage
from email.parser import BytesParser
from typing import Final

from penstock.errors import BadRecordError, MissingExtraError
from penstock.sources.extract.base import Extracted, Limits, MetadataValue
from penstock.sources.extract.html import extract_html
from penstock.sources.extract.sniff import Kind

_HEADS: Final = ("from", "to", "cc", "date", "subject")
_MOST_PARTS: Final = 1000
_MOST_DEPTH: Final = 3
Parse = Callable[[str, bytes, Limits], Extracted]


def extract_mail(data: bytes, limits: Limits, parse: Parse, depth: int = 0) -> Extracted:
    """One document: an attachment is a section ``Attachment: NAME``, read by ``parse`` as a file of
    that name would be; one that cannot be read says why in its section. Parts are separated by a
    form feed."""
    if depth > _MOST_DEPTH:
        raise BadRecordError(f"expected mails in mails at most {_MOST_DEPTH} deep, found more")
    try:
        message = BytesParser(policy=policy.default).parsebytes(data)
        assert isinstance(message, EmailMessage)
        heads = {name: _head(message, name) for name in _HEADS}
        if not any(heads.values()):
            raise BadRecordError("expected a mail with a sender or a subject, found none")
        leaves = list(_leaves(message))
    except (errors.MessageError, UnicodeError, LookupError, ValueError) as error:
        raise BadRecordError(f"expected a mail, found a broken one: {error}") from error
    lines = [f"{name.capitalize()}: {value}" for name, value in heads.items() if value]
    pages = ["\n".join(lines) + "\n\n" + _body(leaves, limits)]
    left = limits.output_bytes - len(pages[0])
    names: list[str] = []
    unreadable: list[str] = []
    for number, part in enumerate(leaves, 1):
        name = _name(part, number)
        if name is None or _decoration(part):
            continue
        names.append(name)
        section, readable = _attachment(
            name, part, replace(limits, output_bytes=left), parse, depth
        )
        if not readable:
            unreadable.append(name)
        left -= len(section)
        if left < 0:
            msg = f"expected at most {limits.output_bytes:,} characters of text: split the file"
            raise BadRecordError(msg)
        pages.append(section)
    facts: dict[str, MetadataValue] = {name: heads[name] for name in _HEADS[:4] if heads[name]}
    if names:
        facts["attachments"] = names
    if unreadable:
        facts["unreadable_attachments"] = unreadable
    return Extracted("\f".join(pages).rstrip(), heads["subject"] or None, Kind.MAIL.value, facts)


def _head(message: EmailMessage, name: str) -> str:
    value = message.get(name)
    return " ".join(str(value).split())[:10_000] if value is not None else ""


def _leaves(message: EmailMessage) -> Iterator[EmailMessage]:
    """The parts that hold something; a mail that is attached is one of them."""
    pending: list[EmailMessage] = [message]
    count = 0
    while pending:
        part = pending.pop()
        count += 1
        if count > _MOST_PARTS:
            raise BadRecordError(f"expected a mail of at most {_MOST_PARTS:,} parts, found more")
        if part.get_content_maintype() == "multipart":
            inner = [item for item in part.get_payload() if isinstance(item, EmailMessage)]
            if part.get_content_subtype() == "alternative":
                inner = _best(inner)
            pending.extend(reversed(inner))
        else:
            yield part


def _best(parts: list[EmailMessage]) -> list[EmailMessage]:
    """Of the same text in several forms one is enough."""
    for wanted in ("text/plain", "text/html"):
        for part in parts:
            if part.get_content_type() == wanted and part.get_payload():
                return [part]
    return parts[-1:]


def _name(part: EmailMessage, number: int) -> str | None:
    """The name of an attachment; None for a part of the body."""
    kind = part.get_content_type()
    name = part.get_filename()
    if kind == "message/rfc822":
        return name or f"message-{number}.eml"
    if name is None and kind in {"text/plain", "text/html"}:
        return None if part.get_content_disposition() != "attachment" else f"part-{number}.txt"
    if name is None:
        return f"part-{number}.{part.get_content_subtype()[:20]}"
    return " ".join(name.split())[:200]


def _decoration(part: EmailMessage) -> bool:
    """An image that the body shows: a logo far more often than a text."""
    inline = part.get_content_disposition() != "attachment"
    return part.get_content_maintype() == "image" and inline


def _content(part: EmailMessage) -> bytes:
    if part.get_content_type() == "message/rfc822":
        inner = part.get_payload()
        first = inner[0] if isinstance(inner, list) and inner else None
        return first.as_bytes() if isinstance(first, EmailMessage) else b""
    try:
        content = part.get_payload(decode=True)
    except (binascii.Error, ValueError) as error:
        raise BadRecordError(f"expected an attachment, found a broken one: {error}") from error
    return content if isinstance(content, bytes) else b""


def _body(parts: list[EmailMessage], limits: Limits) -> str:
    texts: list[str] = []
    for number, part in enumerate(parts, 1):
        if _name(part, number) is not None:
            continue
        content = _content(part)
        if part.get_content_type() == "text/html":
            texts.append(extract_html(content, limits).text)
        else:
            charset = part.get_content_charset("utf-8")
            try:
                texts.append(content.decode(charset, "replace"))
            except LookupError:
                texts.append(content.decode("utf-8", "replace"))
    text = "\n\n".join(text.strip() for text in texts)
    return text.replace("\r\n", "\n").replace("\f", " ")


def _attachment(
    name: str, part: EmailMessage, limits: Limits, parse: Parse, depth: int
) -> tuple[str, bool]:
    heading = f"# Attachment: {name}\n\n"
    try:
        content = _content(part)
        if part.get_content_type() == "message/rfc822" or name.lower().endswith(".eml"):
            found = extract_mail(content, limits, parse, depth + 1)
        else:
            found = parse(name, content, limits) if content else Extracted("", None, "", {})
    except (BadRecordError, MissingExtraError) as error:
        return f"{heading}(This attachment could not be read: {error}.)", False
    return heading + found.text.replace("\f", "\n\n"), True
