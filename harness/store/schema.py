"""Schema: the tables of the store, a row per run, stage, count and finding.

They hold a :class:`harness.result.RunResult` field by field, so that what is read is
what was saved. ``position`` keeps the order of what was a tuple or a dictionary.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from msgspec import convert
from sqlalchemy import JSON, BigInteger, Dialect, Double, ForeignKey, Integer, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship
from sqlalchemy.types import TypeDecorator, TypeEngine

from harness.character import spelt

VERSION = 4  # of these tables; goes up with every change of them


class CleanText(TypeDecorator[str]):
    """Text that every database takes."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else spelt(value)


class TextList(TypeDecorator[tuple[str, ...]]):
    """Some texts, as one JSON array."""

    impl = JSON
    cache_ok = True

    def process_bind_param(
        self, value: tuple[str, ...] | None, dialect: Dialect
    ) -> list[str]:
        return [spelt(each) for each in value or ()]

    def process_result_value(self, value: object, dialect: Dialect) -> tuple[str, ...]:
        return convert(value or (), tuple[str, ...])


class TextTable(TypeDecorator[dict[str, str]]):
    """Texts by name, as one JSON object."""

    impl = JSON
    cache_ok = True

    def process_bind_param(
        self, value: dict[str, str] | None, dialect: Dialect
    ) -> dict[str, str]:
        return {spelt(key): spelt(each) for key, each in (value or {}).items()}

    def process_result_value(self, value: object, dialect: Dialect) -> dict[str, str]:
        return convert(value or {}, dict[str, str])


class Address(TypeDecorator[int]):
    """An unsigned 64-bit number, in the signed ones that databases have."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: int | None, dialect: Dialect) -> int | None:
        if value is None:
            return None
        return int.from_bytes(value.to_bytes(8), signed=True)  # or too big

    def process_result_value(self, value: int | None, dialect: Dialect) -> int | None:
        return None if value is None else value % 2**64


Number = Annotated[
    int,
    mapped_column(BigInteger().with_variant(Integer(), "sqlite"), primary_key=True),
]  # SQLite numbers rows by itself where the type is INTEGER, and there only


class Table(DeclarativeBase):
    """What all tables share: how Python's types are columns."""

    type_annotation_map: ClassVar[dict[object, TypeEngine[Any]]] = {
        str: CleanText(),
        int: BigInteger(),
        float: Double(),
        tuple[str, ...]: TextList(),
        dict[str, str]: TextTable(),
    }


class SchemaVersion(Table):
    """One row: the :data:`VERSION` that the tables are of."""

    __tablename__ = "schema_version"

    version: Mapped[int] = mapped_column(primary_key=True)


class Run(Table):
    """One run; ``started`` is ISO 8601 in UTC, which sorts as text."""

    __tablename__ = "run"

    number: Mapped[Number]
    run_id: Mapped[str] = mapped_column(unique=True)
    schema: Mapped[str]
    started: Mapped[str] = mapped_column(index=True)
    seconds: Mapped[float]
    profile: Mapped[str]
    tree: Mapped[str]
    tools: Mapped[dict[str, str]]
    exit_code: Mapped[int]
    baseline: Mapped[str]
    stages: Mapped[list[Stage]] = relationship(order_by="Stage.position", lazy="raise")


class Stage(Table):
    """One stage of a run."""

    __tablename__ = "stage"

    number: Mapped[Number]
    run_number: Mapped[int] = mapped_column(ForeignKey(Run.number), index=True)
    position: Mapped[int]
    stage: Mapped[str]
    variant: Mapped[str]
    status: Mapped[str]
    seconds: Mapped[float]
    reason: Mapped[str]
    hint: Mapped[str]
    exit_code: Mapped[int]
    notes: Mapped[tuple[str, ...]]
    objects: Mapped[tuple[str, ...]]
    counts: Mapped[list[Count]] = relationship(order_by="Count.position", lazy="raise")
    findings: Mapped[list[Finding]] = relationship(
        order_by="Finding.position", lazy="raise"
    )


class Count(Table):
    """One number that a stage counted."""

    __tablename__ = "count"

    stage_number: Mapped[int] = mapped_column(
        ForeignKey(Stage.number), primary_key=True
    )
    position: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    value: Mapped[int]


class Finding(Table):
    """One finding of a stage, new or known; ``key`` is kept to be asked for."""

    __tablename__ = "finding"

    stage_number: Mapped[int] = mapped_column(
        ForeignKey(Stage.number), primary_key=True
    )
    position: Mapped[int] = mapped_column(primary_key=True)
    known: Mapped[bool]
    key: Mapped[str] = mapped_column(index=True)
    rule: Mapped[str]
    object: Mapped[str]
    symbol: Mapped[str]
    offset: Mapped[int]
    address: Mapped[int] = mapped_column(Address())
    line: Mapped[str]
    message: Mapped[str]
    declared: Mapped[str]
    actual: Mapped[str]
    variant: Mapped[str]
    platforms: Mapped[tuple[str, ...]]
    cause: Mapped[str]
    ordinal: Mapped[int]
    window: Mapped[tuple[str, ...]]
    reproduce: Mapped[str]
    occurrences: Mapped[int]
    blame: Mapped[str]
    seen: Mapped[tuple[str, ...]]
    expired: Mapped[tuple[str, ...]]


# What tables of an older version may lack: lists, which are empty where they did.
ADDED = (
    Table.metadata.tables["finding"].columns["seen"],
    Table.metadata.tables["stage"].columns["objects"],
    Table.metadata.tables["finding"].columns["expired"],
)
