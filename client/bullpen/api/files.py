"""YAML files with Bullpen's objects in them: from bytes to models, each mistake with its file and line.

What else lies in the files (Secrets, Deployments) is kept aside unread. What the schema cannot say, `bullpen.api.checks`
says.
"""

import itertools
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path as FilePath

from pydantic import JsonValue, ValidationError

from bullpen.api import explain, yamltext
from bullpen.api.findings import MOST_PER_DOCUMENT, Finding, Path, did_you_mean, of_value, shown
from bullpen.api.v1alpha1 import API_VERSION, KINDS, ClusterRedisConnection, JobQueue, RedisConnection
from bullpen.api.yamlnodes import MAX_BYTES, Position
from bullpen.api.yamltext import TextDocument

GROUP = "bullpen.dev"
STDIN = "-"
"""The file name that stands for standard input."""

Object = JobQueue | RedisConnection | ClusterRedisConnection


@dataclass(frozen=True, slots=True)
class Document:
    """One document of a file. `object` is absent where it is of another kind, or not valid."""

    file: str
    text: TextDocument
    kind: str
    object: Object | None = None

    @property
    def index(self) -> int:
        """The document's place in its file, from 1."""
        return self.text.index

    @property
    def value(self) -> JsonValue:
        """The document as plain values."""
        return self.text.value

    def position_of(self, path: Path) -> Position:
        """Give where the field stands, or else the nearest one that it is part of."""
        return self.text.position_of(path)

    def locate(self, path: Path, finding: Finding) -> Finding:
        """Give the finding with this document's place of the path."""
        return finding.at(file=self.file, line=self.position_of(path).line, document=self.index)


@dataclass(frozen=True, slots=True)
class FileSet:
    """What some files hold: Bullpen's documents, other ones, and what is wrong with how they are written."""

    documents: tuple[Document, ...] = ()
    others: tuple[Document, ...] = ()
    findings: tuple[Finding, ...] = ()

    @property
    def objects(self) -> tuple[Object, ...]:
        """All valid objects, in the files' order."""
        return tuple(document.object for document in self.documents if document.object is not None)

    @property
    def jobqueues(self) -> tuple[JobQueue, ...]:
        """The valid JobQueues, in the files' order."""
        return tuple(each for each in self.objects if isinstance(each, JobQueue))

    def __add__(self, other: "FileSet") -> "FileSet":
        return FileSet(self.documents + other.documents, self.others + other.others, self.findings + other.findings)


def load(paths: Iterable[str | FilePath]) -> FileSet:
    """Read files, folders (their ``*.yaml`` and ``*.yml``) and, for ``-``, standard input.

    Raises nothing for what is in them or for one that cannot be read: that is a finding.
    """
    result = FileSet()
    for path in paths:
        names = _expanded(path)
        for file in names:
            result += _load_file(file)
        if not names:
            nothing = Finding("error", "", "is a folder without *.yaml and *.yml files", file=str(path))
            result += FileSet(findings=(nothing,))
    return result


def loads(data: bytes | str, *, file: str = "<text>") -> FileSet:
    """Read the documents of one text; `file` is what findings call it."""
    texts, findings = yamltext.read(data, file=file)
    documents: list[Document] = []
    others: list[Document] = []
    for text in texts:
        if text.value is None:
            continue
        document, more = _read(file, text)
        findings += more
        (documents if document.object is not None or more else others).append(document)
    return FileSet(tuple(documents), tuple(others), tuple(findings))


def validate(value: Mapping[str, JsonValue]) -> Object:
    """Give the object that a mapping describes, by its `kind`, in YAML's spelling only.

    Raises `pydantic.ValidationError`, and `KeyError` for a kind that is not Bullpen's.
    """
    return KINDS[str(value.get("kind"))].model_validate(value, by_alias=True, by_name=False)


def _expanded(path: str | FilePath) -> list[str]:
    folder = FilePath(path)
    if str(path) == STDIN or not folder.is_dir():
        return [str(path)]
    return sorted(str(file) for file in folder.iterdir() if file.suffix in {".yaml", ".yml"} and file.is_file())


def _load_file(file: str) -> FileSet:
    try:
        if file == STDIN:
            return loads(sys.stdin.buffer.read(MAX_BYTES + 1), file="<stdin>")
        with FilePath(file).open("rb") as stream:
            return loads(stream.read(MAX_BYTES + 1), file=file)
    except OSError as error:
        return FileSet(findings=(Finding("error", "", f"cannot be read: {error.strerror or error}", file=file),))


def _read(file: str, text: TextDocument) -> tuple[Document, list[Finding]]:
    if not isinstance(text.value, dict):
        document = Document(file, text, "")
        finding = Finding("error", "", f"found {shown(text.value)}; allowed: a Kubernetes object (apiVersion, kind, …)")
        return document, [document.locate((), finding)]
    document = Document(file, text, str(text.value.get("kind", "")))
    problem = _foreign(text.value)
    if problem is not None:
        path, finding = problem
        return document, [document.locate(path, finding)]
    if not _is_ours(text.value):
        return document, []
    written = list(text.findings)
    try:
        valid = validate(text.value)
    except ValidationError as error:
        doubtful = {(finding.line, finding.field) for finding in written}
        explained = itertools.islice(explain.findings(KINDS[document.kind], error), MOST_PER_DOCUMENT)
        located = [document.locate(path, each) for path, each in explained]
        return document, written + [each for each in located if (each.line, each.field) not in doubtful]
    return Document(file, text, document.kind, valid), written


def _is_ours(value: Mapping[str, JsonValue]) -> bool:
    return value.get("apiVersion") == API_VERSION


def _foreign(value: Mapping[str, JsonValue]) -> tuple[Path, Finding] | None:
    """Say what is wrong with apiVersion and kind, where the object is Bullpen's or seems meant so."""
    version, kind = value.get("apiVersion"), value.get("kind")
    for name, each in (("apiVersion", version), ("kind", kind)):
        if not isinstance(each, str) or not each:
            text = "is missing or no text; allowed: a Kubernetes object has apiVersion and kind"
            return (name,), Finding("error", name, text, None, None)
    group = str(version).partition("/")[0]
    if group == GROUP and version != API_VERSION:
        return ("apiVersion",), of_value("error", ("apiVersion",), version, API_VERSION)
    if group != GROUP and kind in KINDS:
        return ("apiVersion",), of_value("error", ("apiVersion",), version, f"{API_VERSION} for a {kind}")
    if group == GROUP and kind not in KINDS:
        hint = did_you_mean(str(kind), KINDS)
        return ("kind",), of_value("error", ("kind",), kind, ", ".join(KINDS), hint=hint)
    return None
