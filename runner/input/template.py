"""Prompts from a Jinja template over a row's columns, in a sandbox with caps on time and size.

The sandbox keeps the template from Python's internals. The caps keep it from hanging or filling memory: every
turn of a loop and every call of a macro looks at the clock, and what can make long values from short ones
(operators, calls, filters, printing) is judged before it runs, by the sizes that go in.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jinja2
from jinja2 import meta, nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.lexer import Token, TokenStream
from jinja2.sandbox import ImmutableSandboxedEnvironment

from runner.config import JobConfig
from runner.errors import ConfigError
from runner.input.few_shot import EXAMPLES, load_examples
from runner.input.template_bounds import (
    BINOP_BOUNDS,
    MAX_CHARS,
    bound_call,
    bound_filter,
    bound_values,
    bounded_json,
    size,
)

MAX_SECONDS = 1.0
MAX_MADE = 256 * 1024 * 1024

_FAULTS = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, RecursionError, MemoryError)
_JINJA_VALUES = (jinja2.Environment, jinja2.runtime.Context, nodes.EvalContext)
_TICK = "_tick"


class TemplateError(Exception):
    """A row that the template cannot render; ``code`` names the kind."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class PromptTemplate:
    """A compiled template. ``columns`` are the names that it may use, beside those of ``constants``."""

    def __init__(
        self,
        source: str,
        columns: Sequence[str],
        key: str = "job.template",
        constants: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        """Raises ConfigError for a syntax error or a variable that is no column."""
        self._constants = constants
        self._environment = _Environment()
        try:
            used = meta.find_undeclared_variables(self._environment.parse(source))
            self._template = self._environment.from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise ConfigError(f"{key}: line {error.lineno}: {error.message}; correct the template") from None
        missing = sorted(used - set(columns) - set(constants) - set(self._environment.globals))
        unused = sorted(set(constants) - used)
        if unused:
            raise ConfigError(f"{key} does not use {unused[0]!r}; show them, or drop job.few_shot_file")
        if missing and columns:  # input without any row has no columns, and is done at once
            raise ConfigError(f"{key} uses {missing[0]!r}, but the input's columns are {', '.join(columns)}")

    def render(self, values: dict[str, Any]) -> str:
        """The prompt of one row; raises TemplateError when a value is missing or null, or a cap is reached."""
        self._environment.deadline, self._environment.made = time.monotonic() + MAX_SECONDS, 0
        try:
            return self._environment.join_bounded(self._template.generate({**self._constants, **values}))
        except jinja2.UndefinedError as error:
            raise TemplateError("template_missing_value", f"the template needs a value: {error.message}") from None
        except SecurityError as error:
            raise TemplateError("template_forbidden", f"the template was stopped: {error.message}") from None
        except (jinja2.TemplateError, *_FAULTS) as error:
            raise TemplateError("template_failed", f"the template failed: {type(error).__name__}: {error}") from None


def load_template(config: JobConfig, columns: Sequence[str]) -> PromptTemplate | None:
    """The template of ``job.template`` or ``job.template_file``; None when neither is set."""
    if config.template is not None and config.template_file is not None:
        raise ConfigError("job.template and job.template_file are both set; keep one of them")
    constants = {} if config.few_shot_file is None else {EXAMPLES: load_examples(config.few_shot_file, columns)}
    if config.template is not None:
        return PromptTemplate(config.template, columns, constants=constants)
    if config.template_file is None:
        return None
    try:
        source = Path(config.template_file).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"job.template_file={config.template_file} cannot be read ({error}); give a text file"
        ) from None
    return PromptTemplate(source, columns, f"job.template_file={config.template_file}", constants)


class _Ticks(Extension):
    """Puts a look at the clock into the body of every loop and macro."""

    def filter_stream(self, stream: TokenStream) -> Iterator[Token]:
        opened = False
        previous = None
        for token in stream:
            yield token
            if previous == "block_begin":
                opened = token.value in ("for", "macro", "call")
            if token.type == "block_end" and opened:
                opened = False
                yield from _tick_tokens(token.lineno)
            previous = token.type


def _tick_tokens(line: int) -> Iterator[Token]:
    yield Token(line, "variable_begin", "{{")
    yield Token(line, "name", _TICK)
    yield Token(line, "lparen", "(")
    yield Token(line, "rparen", ")")
    yield Token(line, "variable_end", "}}")


class _BoundedCode(CodeGenerator):
    """Compiles ``a ~ b`` to a bounded join."""

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:  # noqa: N802 - Jinja's name
        self.write("environment.join_bounded(map(str, (")
        for argument in node.nodes:
            self.visit(argument, frame)
            self.write(", ")
        self.write(")))")


class _Environment(ImmutableSandboxedEnvironment):
    """A sandbox that bounds what a template may take."""

    intercepted_binops = frozenset({"*", "**", "+", "%"})
    code_generator_class = _BoundedCode

    def __init__(self) -> None:
        super().__init__(
            undefined=jinja2.StrictUndefined,
            finalize=_printable,
            extensions=[_Ticks],
            autoescape=False,
            optimized=False,
        )
        self.deadline = float("inf")
        self.made = 0  # characters and items that calls and filters made for the prompt at hand
        self.concat = self.join_bounded  # type: ignore[method-assign]
        self.globals.pop("lipsum")
        self.globals[_TICK] = self._tick
        self.policies["json.dumps_function"] = functools.partial(bounded_json, self.join_bounded)
        self.filters = {name: self._bounded(name, function) for name, function in self.filters.items()}

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        self._tick()
        BINOP_BOUNDS[operator](left, right)
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805 - Jinja's names
        __self._tick()
        bound_call(getattr(__obj, "__wrapped__", __obj), (*args, *kwargs.values()))  # the sandbox wraps str.format
        return __self._counted(super().call(__context, __obj, *args, **kwargs))

    def join_bounded(self, pieces: Iterable[str]) -> str:
        """The pieces as one string, of bounded size."""
        total, kept = 0, []
        for piece in pieces:
            self._tick()
            total += len(piece)
            if total > MAX_CHARS:
                raise SecurityError(f"the text grows over {MAX_CHARS} characters")
            kept.append(piece)
        return "".join(kept)

    def _tick(self) -> str:
        if time.monotonic() > self.deadline:
            raise SecurityError(f"it ran for over {MAX_SECONDS:g} s")
        return ""

    def _counted(self, value: Any) -> Any:
        """Many values of a fair size are together too much."""
        self.made += size(value)
        if self.made > MAX_MADE:
            raise SecurityError(f"it makes over {MAX_MADE} characters in all")
        return value

    def _bounded(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """A filter that judges the sizes of its arguments first."""

        @functools.wraps(function)  # also keeps Jinja's mark of filters that take the environment
        def call(*args: Any, **kwargs: Any) -> Any:
            self._tick()
            bound_filter(name, [v for v in (*args, *kwargs.values()) if not isinstance(v, _JINJA_VALUES)])
            return self._counted(function(*args, **kwargs))

        return call


def _printable(value: Any) -> Any:
    if value is None:
        raise jinja2.UndefinedError("a printed value is null")
    bound_values((value,))
    return value
