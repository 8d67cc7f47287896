"""Measurements in a database: SQLite in a file, or PostgreSQL; nothing in it is ever changed.

Records are only added.  Each has a name made of its content, so that what is added twice is there
once: an import can be repeated, and two machines can share one store.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Self

import sqlalchemy as sql

from ...errors import UserError
from ...passes.tiling import revisions, tilings
from ...passes.tiling.problem import Problem
from ...passes.tiling.record import OUTCOMES, Machine, Record

VERSION = "1"
KEY_LENGTH, UID_LENGTH = 16, 32
_METADATA = sql.MetaData()
_ABOUT = sql.Table(
    "lowc_store",
    _METADATA,
    sql.Column("name", sql.String(40), primary_key=True),
    sql.Column("value", sql.Text, nullable=False),
)
_PROBLEMS = sql.Table(
    "problems",
    _METADATA,
    sql.Column("key", sql.String(KEY_LENGTH), primary_key=True),
    sql.Column("form", sql.String(40), nullable=False, index=True),
    sql.Column("shape", sql.String(80), nullable=False),
    sql.Column("content", sql.Text, nullable=False),
)
_MACHINES = sql.Table(
    "machines",
    _METADATA,
    sql.Column("content", sql.Text, primary_key=True),
    sql.Column("key", sql.String(KEY_LENGTH), nullable=False, index=True),
)
_MEASUREMENTS = sql.Table(
    "measurements",
    _METADATA,
    sql.Column("number", sql.Integer, primary_key=True, autoincrement=True),
    sql.Column("uid", sql.String(UID_LENGTH), unique=True, nullable=False),
    sql.Column("problem", sql.ForeignKey("problems.key"), nullable=False, index=True),
    sql.Column("tiling", sql.String(120), nullable=False),
    sql.Column("machine", sql.ForeignKey("machines.content"), nullable=False),
    sql.Column("outcome", sql.String(8), nullable=False),
    sql.Column("seconds", sql.Float, nullable=False),
    sql.Column("p10", sql.Float, nullable=False),
    sql.Column("p90", sql.Float, nullable=False),
    sql.Column("spread", sql.Float, nullable=False),
    sql.Column("blocks", sql.Integer, nullable=False),
    sql.Column("calls", sql.Integer, nullable=False),
    sql.Column("round", sql.String(120), nullable=False),
    sql.Column("finished", sql.String(40), nullable=False),
    sql.Column("versions", sql.Text, nullable=False),
    sql.Column("note", sql.Text, nullable=False),
)
# A database that somebody else's program opens shall not be changed either.
_SQLITE_GUARDS = [
    f"CREATE TRIGGER IF NOT EXISTS no_{verb.lower()} BEFORE {verb} ON measurements "
    "BEGIN SELECT RAISE(ABORT, 'measurements are only added'); END"
    for verb in ("UPDATE", "DELETE")
]
_MAKING = 0x6C6F7763  # the lock of a PostgreSQL in which tables are being made
_URL = re.compile(r"(sqlite|postgresql)(\+\w+)?://")


class Store:
    """An open store; a context manager."""

    def __init__(self, place: str | Path, *, must_exist: bool = False) -> None:
        """Open the store at a path or an SQLAlchemy URL, and make it if it may not be there.

        Raises
        ------
        UserError
            When it cannot be opened, has no folder, is no store of lowc's, or one of another
            version.
        """
        self.place = str(place)
        if "://" in self.place and not _URL.match(self.place):
            kind = self.place.partition("://")[0]
            raise UserError(
                f"'{kind}' is no database that a store can be in", where="the store's URL",
                hint="a file, sqlite:///FILE, or postgresql+psycopg://user@host/name",
            )  # fmt: skip
        if must_exist and not _may_exist(self.place):
            raise UserError(
                "there is no store of measurements",
                where=_shown(self.place),
                hint="'lowc tune' makes one",
            )
        self.engine = _engine(self.place)
        try:
            self._open()
        except sql.exc.SQLAlchemyError as error:
            self.engine.dispose()
            raise UserError(
                "this is no store of measurements, or it cannot be opened",
                where=_shown(self.place),
                hint="a new path makes a new store",
                detail=_short(error),
            ) from error
        except UserError:
            self.engine.dispose()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.engine.dispose()

    def _open(self) -> None:
        present = set(sql.inspect(self.engine).get_table_names())
        if present and _ABOUT.name not in present:
            raise UserError(
                "this is a database of something else", where=_shown(self.place),
                hint="a store has one of its own",
            )  # fmt: skip
        if not present:
            self._make()
        with self.engine.connect() as connection:
            asked = sql.select(_ABOUT.c.value).where(_ABOUT.c.name == "version")
            version = connection.execute(asked).scalar()
        if version != VERSION:
            raise UserError(
                f"the store has version {version}, this lowc writes {VERSION}",
                where=_shown(self.place),
                hint="export it with the lowc that wrote it, and import that into a new one",
            )

    def _make(self) -> None:
        """Make all tables in one transaction, which others that open the store wait for."""
        is_sqlite = self.engine.dialect.name == "sqlite"
        with self.engine.connect() as connection:
            connection.exec_driver_sql(
                "BEGIN IMMEDIATE" if is_sqlite else f"SELECT pg_advisory_xact_lock({_MAKING})"
            )
            _METADATA.create_all(connection)  # what is not there yet
            for guard in _SQLITE_GUARDS if is_sqlite else ():
                connection.execute(sql.text(guard))
            self._insert(connection, _ABOUT, [{"name": "version", "value": VERSION}])
            connection.commit()

    def add(self, records: Iterable[Record]) -> int:
        """Add what is not there yet; return how many records that were."""
        rows = [_row(record) for record in records]
        if not rows:
            return 0
        problems = {row["problem"].key: row["problem"] for row in rows}
        machines = {row["machine"].to_json(): row["machine"] for row in rows}
        with self.engine.begin() as connection:
            self._insert(
                connection, _PROBLEMS,
                [
                    {"key": key, "form": one.form, "shape": one.shape, "content": one.to_json()}
                    for key, one in problems.items()
                ],
            )  # fmt: skip
            self._insert(
                connection,
                _MACHINES,
                [{"content": text, "key": one.key} for text, one in machines.items()],
            )
            before = connection.execute(sql.select(sql.func.count()).select_from(_MEASUREMENTS))
            count = before.scalar_one()
            self._insert(
                connection, _MEASUREMENTS,
                [
                    {**row, "problem": row["problem"].key, "machine": row["machine"].to_json()}
                    for row in rows
                ],
            )  # fmt: skip
            after = connection.execute(sql.select(sql.func.count()).select_from(_MEASUREMENTS))
            return int(after.scalar_one() - count)

    def _insert(
        self, connection: sql.Connection, table: sql.Table, rows: list[dict[str, Any]]
    ) -> None:
        """Insert the rows that are not there."""
        if self.engine.dialect.name == "postgresql":
            from sqlalchemy.dialects.postgresql import insert as pg_insert

            connection.execute(pg_insert(table).on_conflict_do_nothing(), rows)
            return
        from sqlalchemy.dialects.sqlite import insert

        connection.execute(insert(table).on_conflict_do_nothing(), rows)

    def records(
        self, machine: str = "", problem: str = "", forms: Iterable[str] = ()
    ) -> Iterator[Record]:
        """Yield the records in the order in which they came.

        Parameters
        ----------
        machine, problem : str
            Key of the machine or problem; all if empty.
        forms : iterable of str
            Forms; all if empty.
        """
        asked = (
            sql.select(
                _MEASUREMENTS,
                _PROBLEMS.c.content.label("problem_text"),
                _MACHINES.c.content.label("machine_text"),
            )
            .join(_PROBLEMS, _PROBLEMS.c.key == _MEASUREMENTS.c.problem)
            .join(_MACHINES, _MACHINES.c.content == _MEASUREMENTS.c.machine)
            .order_by(_MEASUREMENTS.c.number)
        )
        if machine:
            asked = asked.where(_MACHINES.c.key == machine)
        if problem:
            asked = asked.where(_MEASUREMENTS.c.problem == problem)
        wanted = list(forms)
        if wanted:
            asked = asked.where(_PROBLEMS.c.form.in_(wanted))
        with self.engine.connect() as connection:
            for row in connection.execute(asked).mappings():
                yield _record(dict(row))

    def measured(self, machine: str) -> set[tuple[str, str]]:
        """Return (problem, tile) of all that was tried on a machine, whatever became of it.

        What was measured of kernels that are no more does not count.
        """
        columns = _MEASUREMENTS.c.problem, _MEASUREMENTS.c.tiling, _MEASUREMENTS.c.versions
        asked = (
            sql.select(*columns)
            .join(_MACHINES, _MACHINES.c.content == _MEASUREMENTS.c.machine)
            .where(_MACHINES.c.key == machine)
            .distinct()
        )
        with self.engine.connect() as connection:
            contents = connection.execute(sql.select(_PROBLEMS.c.key, _PROBLEMS.c.content))
            problems = {str(key): Problem.from_json(str(text)) for key, text in contents}
            return {
                (str(key), str(tiling))
                for key, tiling, versions in connection.execute(asked)
                if revisions.is_current(problems[str(key)], json.loads(versions))
            }

    def machine(self, key: str) -> Machine | None:
        """Return the machine with that key as it was measured last; None if there is none."""
        asked = (
            sql.select(_MACHINES.c.content)
            .join(_MEASUREMENTS, _MEASUREMENTS.c.machine == _MACHINES.c.content)
            .where(_MACHINES.c.key == key)
            .order_by(_MEASUREMENTS.c.number.desc())
            .limit(1)
        )
        with self.engine.connect() as connection:
            text = connection.execute(asked).scalar()
        return None if text is None else Machine.from_json(str(text))

    def count(self) -> dict[str, int]:
        """Return how many records there are of each outcome."""
        asked = sql.select(_MEASUREMENTS.c.outcome, sql.func.count()).group_by(
            _MEASUREMENTS.c.outcome
        )
        with self.engine.connect() as connection:
            return {str(outcome): int(count) for outcome, count in connection.execute(asked)}


def uid_of(record: Record) -> str:
    """Return the name that `record` has by its content."""
    content = [
        record.problem.to_json(), record.tiling, record.machine.to_json(), record.outcome,
        record.round, record.when, repr(record.seconds),
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:UID_LENGTH]


def _engine(place: str) -> sql.Engine:
    if _URL.match(place):
        try:
            return sql.create_engine(place)
        except (sql.exc.SQLAlchemyError, ImportError) as error:
            raise UserError(
                "this store's database has no driver here, or its URL is wrong",
                where=_shown(place),
                hint="pip install 'lowc[tune,postgres]'; postgresql+psycopg://user@host/name",
                detail=_short(error),
            ) from error
    path = Path(place)
    if path.exists() and (not path.is_file() or not _is_sqlite(path)):
        raise UserError(
            "this is no store of measurements", where=place, hint="a new path makes one"
        )
    if not path.parent.is_dir():
        raise UserError(
            f"there is no folder '{path.parent}'", where=f"the store {place}",
            hint="make it, or name another place",
        )  # fmt: skip
    engine = sql.create_engine(f"sqlite:///{path}", connect_args={"timeout": 60})

    @sql.event.listens_for(engine, "connect")
    def _pragmas(connection: Any, _record: Any) -> None:
        connection.execute("PRAGMA foreign_keys=ON")

    return engine


def _may_exist(place: str) -> bool:
    """Whether a store may be there: of a server's database that shows when it is opened."""
    if not _URL.match(place):
        return Path(place).exists()
    try:
        url = sql.make_url(place)
    except sql.exc.SQLAlchemyError:
        return True  # which says what is wrong with it
    file = url.database if url.get_backend_name() == "sqlite" else None
    return not file or Path(file).exists()


def _is_sqlite(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(16)
    return not head or head == b"SQLite format 3\0"


def _shown(place: str) -> str:
    """Return where a store is, without a password."""
    return sql.make_url(place).render_as_string(hide_password=True) if _URL.match(place) else place


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def _row(record: Record) -> dict[str, Any]:
    return {
        "uid": uid_of(record),
        "problem": record.problem,
        "machine": record.machine,
        "tiling": record.tiling,
        "outcome": record.outcome,
        "seconds": record.seconds,
        "p10": record.p10,
        "p90": record.p90,
        "spread": record.spread,
        "blocks": record.blocks,
        "calls": record.calls,
        "round": record.round,
        "finished": record.when,
        "versions": json.dumps(dict(record.versions), sort_keys=True),
        "note": record.note,
    }


def _record(row: dict[str, Any]) -> Record:
    return Record(
        problem=Problem.from_json(row["problem_text"]),
        tiling=row["tiling"],
        machine=Machine.from_json(row["machine_text"]),
        outcome=row["outcome"],
        seconds=row["seconds"],
        p10=row["p10"],
        p90=row["p90"],
        spread=row["spread"],
        blocks=row["blocks"],
        calls=row["calls"],
        round=row["round"],
        when=row["finished"],
        versions=json.loads(row["versions"]),
        note=row["note"],
    )


def checked(record: Record, where: str) -> Record:
    """Return `record` if it can be one.

    Raises
    ------
    UserError
        When its tile is none, or a number cannot be.
    """
    try:
        tilings.parse(record.tiling)
    except ValueError as error:
        raise UserError(str(error), where=where) from error
    if record.outcome not in OUTCOMES:
        raise UserError(f"'{record.outcome}' is no outcome", where=where, hint=", ".join(OUTCOMES))
    numbers = dataclasses.asdict(record)
    for name in ("seconds", "p10", "p90", "spread"):
        if not 0 <= numbers[name] < 1e6:
            raise UserError(f"'{name}' cannot be {numbers[name]!r}", where=where)
    if record.is_ok != (record.seconds > 0):
        raise UserError("only what is 'ok' has a time, and that always", where=where)
    return record
