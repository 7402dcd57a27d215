"""The frozen schema: inferred from JSON values or taken from typed files, and what fits it.

The schema is declared once, at job creation, so that every part file has the same columns. Inference keeps,
for each place in the rows, how often each kind of value stood there; the most frequent kind wins, and rows that
hold another are quarantined when read. Integers and floats together are a float.
"""

from __future__ import annotations

import base64
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

import pyarrow as pa

from runner.errors import ConfigError
from runner.input.repeated_ids import RepeatedIds

log = logging.getLogger(__name__)

MAX_FIELDS = 256
MAX_LEVELS = 40  # of lists and structs: Arrow's files end at 64, its Parquet reader at 100 with two for each list
MAX_MISFITS, MAX_MISFIT_RATE = 2, 0.05  # more than a few bad rows are a habit of the data
_NULL = type(None)
_JSON_TEXT = {b"content": b"json"}
_PROJECTED = {b"columns": b"chosen"}
_SCALARS = {bool: pa.bool_(), int: pa.int64(), float: pa.float64(), str: pa.string()}


def project(schema: pa.Schema, names: Sequence[str]) -> pa.Schema:
    """The chosen columns of a schema, in its order, marked so that readers pass over the others; all when none is."""
    if not names:
        return schema
    unknown = [name for name in names if name not in schema.names]
    if unknown:
        raise ConfigError(f"input.columns: {unknown[0]!r} is no column; the input has {', '.join(schema.names)}")
    return pa.schema([field for field in schema if field.name in names], metadata=_PROJECTED)


def is_projected(schema: pa.Schema) -> bool:
    """Whether the files may hold columns that are not to be read."""
    return bool(schema.metadata) and schema.metadata.items() >= _PROJECTED.items()


class Observed:
    """What stood at one place of the rows: counts of kinds, the items of lists, the fields of objects."""

    __slots__ = ("fields", "items", "kinds")

    def __init__(self) -> None:
        self.kinds: Counter[type] = Counter()
        self.items: Observed | None = None
        self.fields: dict[str, Observed] = {}

    def add(self, values: Sequence[Any]) -> None:
        """Counts a batch of values that stood at this place (column-wise, so the cost a value is small)."""
        kinds = Counter(map(type, values))
        self.kinds += kinds
        if list in kinds:
            self.items = self.items or Observed()
            self.items.add(list(chain.from_iterable(v for v in values if type(v) is list)))
        if dict in kinds:
            self.add_objects([v for v in values if type(v) is dict])

    def add_objects(self, objects: Sequence[dict[str, Any]]) -> None:
        """Counts the fields of a batch of objects, in the order in which they first appear."""
        names = dict.fromkeys(chain.from_iterable(objects))
        self.add_columns({name: [o[name] for o in objects if name in o] for name in names})

    def add_columns(self, columns: Mapping[str, Sequence[Any]]) -> None:
        """As `add_objects`, for values by field."""
        for name, values in columns.items():
            if name not in self.fields:
                self.fields[name] = Observed()
            self.fields[name].add(values)

    def num_fields(self) -> int:
        """All fields below this place."""
        below = sum(child.num_fields() for child in self.fields.values())
        return len(self.fields) + below + (self.items.num_fields() if self.items else 0)

    def arrow_type(self) -> pa.DataType:
        """The type of the most frequent kind; nothing but nulls is a string column."""
        counts = Counter({kind: n for kind, n in self.kinds.items() if kind is not _NULL})
        if int in counts and float in counts:
            counts[float] += counts.pop(int)
        if not counts:
            return pa.string()
        kind = max(counts, key=lambda k: counts[k])
        if kind is list:
            return pa.list_(self.items.arrow_type() if self.items else pa.string())
        if kind is dict:
            return pa.struct([pa.field(name, child.arrow_type()) for name, child in self.fields.items()])
        return _SCALARS[kind]

    def num_misfits(self) -> int:
        """Values here and below that do not have the winning kind of their place."""
        kinds = Counter({float if kind is int else kind: 0 for kind in self.kinds if kind is not _NULL})
        for kind, number in self.kinds.items():
            if kind is not _NULL:
                kinds[float if kind is int else kind] += number
        below = sum(child.num_misfits() for child in self.fields.values())
        return kinds.total() - max(kinds.values(), default=0) + below + (self.items.num_misfits() if self.items else 0)

    def has_one_shape(self) -> bool:
        """False for nested values that no one type could hold without losing many rows or taking too many fields."""
        is_nested = dict in self.kinds or list in self.kinds
        bearable = max(MAX_MISFITS, MAX_MISFIT_RATE * self.kinds.total())
        return not is_nested or (self.num_fields() <= MAX_FIELDS and self.num_misfits() <= bearable)

    def schema(self, prompt_column: str = "") -> pa.Schema:
        """The schema of the rows whose fields were observed. Columns without one shape are carried as JSON text.

        The prompt column is not, where strings are its most frequent kind: then what is no string is no prompt.
        """
        return pa.schema([_column(name, child, name == prompt_column) for name, child in self.fields.items()])


class ObservedRows(Observed):
    """What stood in whole rows; also asks whether their ids repeat."""

    __slots__ = ("ids",)

    def __init__(self) -> None:
        super().__init__()
        self.ids = RepeatedIds()

    def add_columns(self, columns: Mapping[str, Sequence[Any]]) -> None:
        super().add_columns(columns)
        for name in self.ids.wanted(columns):
            self.ids.add(name, columns[name])


def _column(name: str, observed: Observed, is_prompt: bool) -> pa.Field:
    kind = observed.arrow_type()
    is_deep = levels(kind) > MAX_LEVELS
    if (observed.has_one_shape() and not is_deep) or (is_prompt and pa.types.is_string(kind)):
        if misfits := observed.num_misfits():
            log.warning("column %r is %.60s; %d values are not, and their rows go to errors/", name, kind, misfits)
        return pa.field(name, kind)
    what = f"is nested over {MAX_LEVELS} levels" if is_deep else "holds values of many shapes"
    log.warning("column %r %s; it is carried as JSON text", name, what)
    return pa.field(name, pa.string(), metadata=_JSON_TEXT)


def is_json_text(field: pa.Field) -> bool:
    """A column whose values, of whatever shape, are carried as their JSON text."""
    return bool(field.metadata) and field.metadata.items() >= _JSON_TEXT.items()


def levels(kind: pa.DataType) -> int:
    """How many lists and structs stand in one another, 0 for a plain type."""
    children = [kind.field(i).type for i in range(kind.num_fields)]
    return 1 + max(map(levels, children)) if children else int(pa.types.is_nested(kind))


def refuse_deep(schema: pa.Schema) -> None:
    """Raises ConfigError for a column of a typed file that no part file could hold; of text it would be JSON text."""
    for field in schema:
        if levels(field.type) > MAX_LEVELS:
            raise ConfigError(
                f"input.path: column {field.name!r} is nested over {MAX_LEVELS} levels; "
                "write it as JSON text, or leave it out with input.columns"
            )


def encode_schema(schema: pa.Schema) -> str:
    """The schema as base64 of Arrow's own serialisation."""
    return base64.b64encode(schema.serialize().to_pybytes()).decode("ascii")


def decode_schema(text: str) -> pa.Schema:
    return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(text)))


def plain_type(kind: pa.DataType) -> pa.DataType:
    """The type that a source column of type ``kind`` has in the output: one that every loader opens.

    Dictionaries are decoded, maps become lists of (key, value), extension types their storage.
    """
    if isinstance(kind, pa.BaseExtensionType):
        return plain_type(kind.storage_type)
    if pa.types.is_dictionary(kind):
        return plain_type(kind.value_type)
    if pa.types.is_map(kind):
        entry = [pa.field("key", plain_type(kind.key_type)), pa.field("value", plain_type(kind.item_type))]
        return pa.list_(pa.struct(entry))
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(plain_type(field.type)) for field in kind])
    if pa.types.is_large_list(kind):
        return pa.large_list(plain_type(kind.value_type))
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(plain_type(kind.value_type), kind.list_size)
    if pa.types.is_list(kind) or _is_view(kind, "list_view") or _is_view(kind, "large_list_view"):
        return pa.list_(plain_type(kind.value_type))
    if _is_view(kind, "string_view"):
        return pa.string()
    if _is_view(kind, "binary_view"):
        return pa.binary()
    if _is_view(kind, "run_end_encoded"):
        return plain_type(kind.value_type)
    return kind


def _is_view(kind: pa.DataType, name: str) -> bool:
    """Younger types: older pyarrow builds have no test for some of them."""
    test = getattr(pa.types, f"is_{name}", None)
    return bool(test and test(kind))


def plain_schema(schema: pa.Schema, path: str) -> pa.Schema:
    """The schema with plain types and without metadata; a union or a repeated column is refused."""
    repeated = [name for name, n in Counter(schema.names).items() if n > 1]
    if repeated:
        raise ConfigError(f"input.path: {path} has the column {repeated[0]!r} twice; rename one of them")
    unions = [field.name for field in schema if pa.types.is_union(field.type)]
    if unions:
        raise ConfigError(f"input.path: {path} has the union column {unions[0]!r}; convert it to one type")
    return pa.schema([pa.field(field.name, plain_type(field.type)) for field in schema])


def unite(schemas: Iterable[tuple[str, pa.Schema]]) -> pa.Schema:
    """One schema for typed files: the same columns, with widened types; else refused with the difference."""
    first_path, united = "", None
    for path, schema in schemas:
        if united is None:
            first_path, united = path, schema
            continue
        for lacking, names in (
            (path, set(united.names) - set(schema.names)),
            (first_path, set(schema.names) - set(united.names)),
        ):
            if names:
                raise ConfigError(
                    f"input.path: {lacking} lacks the columns {sorted(names)} that other input files have; "
                    f"make the columns equal or run the files as separate jobs"
                )
        united = _widen(united, schema, path)
    if united is None:
        raise ValueError("no schemas to unite")
    return united


def _widen(united: pa.Schema, schema: pa.Schema, path: str) -> pa.Schema:
    fields = []
    for field in united:
        pair = [pa.schema([field]), pa.schema([schema.field(field.name)])]
        try:
            fields.append(pa.unify_schemas(pair, promote_options="permissive").field(0))
        except pa.ArrowTypeError:
            raise ConfigError(
                f"input.path: column {field.name!r} is {schema.field(field.name).type} in {path} but {field.type} "
                f"in the files before it; make the types equal or run the files as separate jobs"
            ) from None
    return pa.schema(fields)
