"""Selectors: SQL-92 conditions over headers, as JMS has them, ``colour = 'red' AND (weight > 2.5 OR urgent)``.

A text is compiled once to closures (`selector_values`). The grammar::

    condition  = both { OR both }
    both       = one { AND one }
    one        = NOT one | sum [ test ]
    test       = ( "=" | "<>" | "!=" | "<" | "<=" | ">" | ">=" ) sum
               | [ NOT ] BETWEEN sum AND sum
               | [ NOT ] IN "(" literal { "," literal } ")"
               | [ NOT ] LIKE string [ ESCAPE string ]
               | IS [ NOT ] NULL
    sum        = product { ( "+" | "-" ) product }
    product    = sign { ( "*" | "/" ) sign }
    sign       = { "+" | "-" } value
    value      = literal | name | "(" condition ")"
    literal    = string | number | TRUE | FALSE
    name       = letters, digits, "_", "$", "." | '"' any '"'

Keywords in any case; names in their own. A name that is none of these, ``content-type``, stands in double quotes.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Final, NoReturn

import attrs

from broker.core.message import Message
from broker.stomp.selector_values import (
    Condition,
    Value,
    all_of,
    among,
    any_of,
    between,
    calculation,
    comparison,
    constant,
    is_null,
    likeness,
    named,
    negation,
    negative,
    truth,
)

#: Characters of a selector's text: some hundred comparisons.
MAX_TEXT: Final = 4096
#: Parentheses, ``NOT`` and signs within each other; a level costs Python some frames, of a thousand.
MAX_DEPTH: Final = 32
#: Characters between two ``%`` if there is a ``_`` among them: such a piece costs its length times the text's.
MAX_PIECE: Final = 64


class BadSelector(Exception):
    """A selector's text cannot be compiled; `position` counts its characters from 1."""

    def __init__(self, reason: str, position: int) -> None:
        super().__init__(f"bad selector at character {position}: {reason}")
        self.position = position


@attrs.frozen
class Selector:
    """A compiled selector."""

    text: str
    _condition: Condition

    def accepts(self, message: Message) -> bool:
        """True if the condition is true of the message; not if it is false or unknown. Never raises."""
        return self._condition(message) is True


@lru_cache(maxsize=256)
def compile_selector(text: str) -> Selector:
    """The selector `text` says; raises `BadSelector`."""
    return Selector(text, _Parser(text).parse())


_KEYWORDS: Final = frozenset(["and", "or", "not", "between", "in", "like", "escape", "is", "null", "true", "false"])
_token = re.compile(
    r"""\s*(?:
        (?P<number>0[xX][0-9a-fA-F]{1,16}[lL]? | (?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,4})?[lLfFdD]?)
      | (?P<word>[^\W\d][\w$.]*|\$[\w$.]*)
      | '(?P<string>(?:[^']|'')*)'
      | "(?P<quoted>(?:[^"]|"")+)"
      | (?P<symbol><>|!=|<=|>=|[=<>+\-*/(),])
      | (?P<end>\Z)
    )""",
    re.VERBOSE,
)
_COMPARISONS: Final = {"=": "=", "<>": "<>", "!=": "<>", "<": "<", "<=": "<=", ">": ">", ">=": ">="}


@attrs.frozen
class _Token:
    #: "number", "name", "string", "symbol", "end", or a keyword in lower case.
    kind: str
    text: str
    #: Where it begins, from 0.
    at: int


@attrs.frozen
class _Found:
    """What a part of the text is: a value, or a condition if it cannot be anything else."""

    at: int
    value: Value | None = None
    condition: Condition | None = None
    #: Neither a truth nor a name.
    never_true: bool = False


class _Parser:
    """Recursive descent over the tokens."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._depth = 0
        self._next = self._read(0) if len(text) <= MAX_TEXT else _Token("end", "", 0)

    def parse(self) -> Condition:
        """The condition that the whole text is."""
        if len(self._text) > MAX_TEXT:
            raise BadSelector(f"it has {len(self._text)} characters, at most {MAX_TEXT} are allowed", 1)
        condition = self._as_condition(self._either())
        if self._next.kind != "end":
            self._fail("expected the end, AND or OR")
        return condition

    # -- the grammar, a method a rule

    def _either(self) -> _Found:
        first = self._both()
        if self._next.kind != "or":
            return first
        conditions = [self._as_condition(first)]
        while self._take("or"):
            conditions.append(self._as_condition(self._both()))
        return _Found(first.at, condition=any_of(conditions))

    def _both(self) -> _Found:
        first = self._one()
        if self._next.kind != "and":
            return first
        conditions = [self._as_condition(first)]
        while self._take("and"):
            conditions.append(self._as_condition(self._one()))
        return _Found(first.at, condition=all_of(conditions))

    def _one(self) -> _Found:
        at = self._next.at
        if self._take("not"):
            self._deeper()
            condition = negation(self._as_condition(self._one()))
            self._depth -= 1
            return _Found(at, condition=condition)
        return self._tested(self._sum())

    def _tested(self, left: _Found) -> _Found:
        token = self._next
        if token.kind == "symbol" and token.text in _COMPARISONS:
            value = self._as_value(left)
            self._advance()
            right = self._as_value(self._sum())
            return _Found(left.at, condition=comparison(_COMPARISONS[token.text], value, right))
        if token.kind == "is":
            value = self._as_value(left)
            self._advance()
            inverse = self._take("not")
            self._expect("null", "NULL")
            condition = is_null(value)
        elif token.kind in ("not", "between", "in", "like"):
            value = self._as_value(left)
            inverse = self._take("not")
            condition = self._choice(value)
        else:
            return left
        return _Found(left.at, condition=negation(condition) if inverse else condition)

    def _choice(self, value: Value) -> Condition:
        if self._take("between"):
            low = self._as_value(self._sum())
            self._expect("and", "AND")
            return between(value, low, self._as_value(self._sum()))
        if self._take("in"):
            return among(value, self._literals())
        if self._take("like"):
            return self._like(value)
        self._fail("expected BETWEEN, IN or LIKE")

    def _literals(self) -> list[object]:
        self._expect_symbol("(")
        literals = [self._literal()]
        while self._take_symbol(","):
            literals.append(self._literal())
        self._expect_symbol(")")
        return literals

    def _like(self, value: Value) -> Condition:
        pattern = self._expect("string", "a pattern in quotes")
        escape = ""
        if self._take("escape"):
            said = self._expect("string", "one character in quotes")
            if len(said.text) != 1:
                self._fail("expected one character in quotes", said.at)
            escape = said.text
        pieces: list[list[str | None]] = [[]]
        characters = iter(pattern.text)
        for character in characters:
            if escape and character == escape:
                following = next(characters, "")
                if following not in ("%", "_", escape) or not following:
                    self._fail("the escape stands before no %, _ or itself", pattern.at)
                pieces[-1].append(following)
            elif character == "%":
                pieces.append([])
            else:
                pieces[-1].append(None if character == "_" else character)
        if any(None in piece and len(piece) > MAX_PIECE for piece in pieces):
            self._fail(f"at most {MAX_PIECE} characters with a _ may stand between two %", pattern.at)
        return likeness(value, pieces)

    def _sum(self) -> _Found:
        return self._chain(self._product, "+-")

    def _product(self) -> _Found:
        return self._chain(self._sign, "*/")

    def _chain(self, part: Callable[[], _Found], symbols: str) -> _Found:
        found = part()
        steps: list[tuple[str, Value]] = []
        while self._next.kind == "symbol" and self._next.text in symbols:
            first = self._as_value(found)
            symbol = self._advance().text
            steps.append((symbol, self._as_value(part())))
        return _Found(found.at, value=calculation(first, steps), never_true=True) if steps else found

    def _sign(self) -> _Found:
        token = self._next
        if token.kind != "symbol" or token.text not in "+-":
            return self._value()
        self._advance()
        self._deeper()
        value = self._as_value(self._sign())
        self._depth -= 1
        # Plus is minus twice: text that is no number is NULL then.
        return _Found(token.at, value=negative(negative(value) if token.text == "+" else value), never_true=True)

    def _value(self) -> _Found:
        token = self._next
        if self._take_symbol("("):
            self._deeper()
            found = self._either()
            self._depth -= 1
            self._expect_symbol(")")
            return attrs.evolve(found, at=token.at)
        if token.kind == "name":
            self._advance()
            return _Found(token.at, value=named(token.text))
        literal = self._literal()
        return _Found(token.at, value=constant(literal), never_true=not isinstance(literal, bool))

    def _literal(self) -> object:
        token = self._next
        if token.kind not in ("string", "number", "true", "false"):
            self._fail("expected a name, a value or a condition")
        self._advance()
        if token.kind == "string":
            return token.text
        return _number(token.text) if token.kind == "number" else token.kind == "true"

    # -- parts

    def _as_condition(self, found: _Found) -> Condition:
        if found.condition is not None:
            return found.condition
        assert found.value is not None
        if found.never_true:
            self._fail("expected a condition, not a value", found.at)
        return truth(found.value)

    def _as_value(self, found: _Found) -> Value:
        """A condition is a value too, where SQL lets it be one: in parentheses."""
        return found.value or found.condition or constant(None)

    def _deeper(self) -> None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            self._fail(f"parentheses, NOT and signs are nested more than {MAX_DEPTH} deep")

    # -- tokens

    def _read(self, at: int) -> _Token:
        match = _token.match(self._text, at)
        if match is None:
            start = at + len(self._text[at:]) - len(self._text[at:].lstrip())
            what = (
                "the text in quotes does not end" if self._text[start] in "'\"" else "a character that has no meaning"
            )
            raise BadSelector(what, start + 1)
        kind = str(match.lastgroup)
        text, begin = match[kind], match.start(kind)
        self._end = match.end()
        if kind == "word":
            return _Token(text.lower() if text.lower() in _KEYWORDS else "name", text, begin)
        if kind in ("string", "quoted"):
            quote = "'" if kind == "string" else '"'
            return _Token("string" if kind == "string" else "name", text.replace(quote * 2, quote), begin - 1)
        return _Token(kind, text, begin)

    def _advance(self) -> _Token:
        taken, self._next = self._next, self._read(self._end)
        return taken

    def _take(self, kind: str) -> bool:
        if self._next.kind != kind:
            return False
        self._advance()
        return True

    def _take_symbol(self, symbol: str) -> bool:
        return self._next.kind == "symbol" and self._next.text == symbol and bool(self._advance())

    def _expect(self, kind: str, what: str) -> _Token:
        if self._next.kind != kind:
            self._fail(f"expected {what}")
        return self._advance()

    def _expect_symbol(self, symbol: str) -> None:
        if not self._take_symbol(symbol):
            self._fail(f"expected {symbol}")

    def _fail(self, reason: str, at: int | None = None) -> NoReturn:
        raise BadSelector(reason, (self._next.at if at is None else at) + 1)


def _number(text: str) -> int | float:
    text = text.lower()
    if text.startswith("0x"):
        return int(text.rstrip("l"), 16)
    text = text.rstrip("lfd")
    return int(text) if text.isdigit() else float(text)
