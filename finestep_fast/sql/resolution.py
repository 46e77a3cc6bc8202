"""Names in a parsed query, resolved to tables and columns while its normal form is written.

One walk over the tree does both, since a normal form without aliases needs to know what each name
means. Not a parser, and not sqlglot's optimizer, which is far slower and refuses unknown names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sqlglot import exp

from finestep_fast.sql.literals import literal_value
from finestep_fast.sql.parsing import UnreadableError, text_of
from finestep_fast.sql.scope import Scope, Source, found_source, known

# Where SQLite reads an unknown name in double quotes as a string.
VALUE_ARGS = frozenset({"expression", "low", "high", "true", "false", "default"})
CLAUSE_ARGS = frozenset(
    {"from_", "joins", "with_", "expressions", "group", "order", "limit", "offset"}
)
# After a set operation sqlglot keeps these in an order that depends on the process's hash seed.
TAIL_ARGS = {"order": 1, "limit": 2, "offset": 3}
# SQLite gives LIKE, IN, BETWEEN and IS the rank of `=`, from left to right, below `<`. sqlglot lets
# the first three bind more tightly than both, some of its versions IS too.
ORDERINGS = (exp.LT, exp.LTE, exp.GT, exp.GTE)
KINDS_OF_IS = (exp.Is, exp.NullSafeEQ, exp.NullSafeNEQ)
EQUALITIES = (exp.EQ, exp.NEQ, *KINDS_OF_IS)
KINDS_OF_LIKE = (exp.Like, exp.Glob, exp.Match, exp.RegexpLike, exp.Escape)
TIGHT = (*KINDS_OF_LIKE, exp.In, exp.Between, *KINDS_OF_IS)


class Reading:
    """One walk over one query.

    Attributes:
        tables: Tables named, folded, in the order of their first mention.
        columns: Columns named.
        missing: Those of both that do not exist.
        literals: Constants that something is held against, see `literals`.
    """

    def __init__(self, columns_by_table: Mapping[str, frozenset[str]]) -> None:
        self._columns_by_table = columns_by_table
        self._num_sources = 0
        self.tables: dict[str, None] = {}
        self.columns: dict[str, None] = {}
        self.missing: dict[str, None] = {}
        self.literals: dict[str | int | float, None] = {}

    def text_of_query(self, query: exp.Expr) -> str:
        """Return the normal form of the outermost query; fills in the names on the way."""
        return self._query(query, None, {})[0]

    def _query(
        self, query: exp.Expr, parent: Scope | None, defined: dict[str, Source]
    ) -> tuple[str, dict[str, str] | None]:
        """Return the normal form of a query, and its output columns by folded name."""
        defined, head = self._definitions(query, parent, defined)
        if isinstance(query, exp.Select):
            text, outputs = self._select(query, Scope(parent, defined))
        elif isinstance(query, exp.SetOperation):
            text, outputs = self._set_operation(query, parent, defined)
        elif isinstance(query, (exp.Subquery, exp.Paren)):
            text, outputs = self._query(query.this, parent, defined)
            scope = Scope(parent, defined, aliases=dict(outputs or {}))
            text += self._rest(query, scope, frozenset({"this", "alias", "with_"}))
        else:
            scope = Scope(parent, defined)
            text = type(query).__name__ + self._rest(query, scope, frozenset({"with_", "alias"}))
            outputs = None
        return head + text, outputs

    def _definitions(
        self, query: exp.Expr, parent: Scope | None, defined: dict[str, Source]
    ) -> tuple[dict[str, Source], str]:
        """Return the common table expressions visible in a query, and the text of its own ones."""
        clause = query.args.get("with_")
        if clause is None:
            return defined, ""
        defined = dict(defined)
        # SQLite lets every expression of a WITH read itself and those after it.
        names = [folded(definition.args["alias"].this) for definition in clause.expressions]
        for place, definition in enumerate(clause.expressions):
            defined[names[place]] = Source(f"w{place}", given_names(definition.args["alias"]))
        texts = []
        for place, definition in enumerate(clause.expressions):
            text, outputs = self._query(definition.this, parent, defined)
            columns = given_names(definition.args["alias"]) or outputs
            defined = defined | {names[place]: Source(f"w{place}", columns)}
            texts.append(f"w{place}={text}")
        kind = "recursive" if clause.args.get("recursive") else "with"
        return defined, f"{kind}({';'.join(texts)})"

    def _select(self, select: exp.Select, scope: Scope) -> tuple[str, dict[str, str] | None]:
        """Return the normal form of one SELECT, and its output columns."""
        parts = []
        clause = select.args.get("from_")
        if clause is not None:
            parts.append(self._source(clause.this, scope))
        joins = select.args.get("joins") or []
        joined = [(join, self._source(join.this, scope)) for join in joins]
        parts.extend(self._join(join, text, scope) for join, text in joined)
        shown = []
        outputs: dict[str, str] | None = {}
        for place, output in enumerate(select.expressions):
            inner = output.this if isinstance(output, exp.Alias) else output
            text = self._text(inner, scope)
            shown.append(text)
            if isinstance(output, exp.Alias):
                name = folded(output.args["alias"])
                scope.aliases.setdefault(name, text)
                if outputs is not None:
                    outputs.setdefault(name, f"c{place}")
            elif is_star(inner):
                outputs = merged(outputs, starred(inner, scope))
            elif isinstance(inner, exp.Column) and outputs is not None:
                outputs.setdefault(folded(inner.this), f"c{place}")
        rest = self._rest(select, scope, CLAUSE_ARGS)
        # SQLite looks for the names in these two inside this SELECT only.
        closed = replace(scope, parent=None)
        group, order = select.args.get("group"), select.args.get("order")
        rest += self._text(group, closed) if group is not None else ""
        terms = [self._term(term, closed) for term in order.expressions] if order else []
        rest += f"order[{','.join(terms)}]" if terms else ""
        for bound in filter(None, (select.args.get("limit"), select.args.get("offset"))):
            rest += self._text(bound, Scope(None, scope.defined))  # no columns here at all
        return f"select({','.join(shown)})from({','.join(parts)}){rest}", outputs

    def _term(self, term: exp.Expr, scope: Scope) -> str:
        """Return the normal form of a term of ORDER BY, where an alias goes before a column."""
        name = folded(term.this) if isinstance(term.this, exp.Column) else ""
        if term.this.args.get("table") is None and name in scope.aliases:
            return scope.aliases[name] + self._rest(term, scope, frozenset({"this"}))
        return self._text(term.this, scope) + self._rest(term, scope, frozenset({"this"}))

    def _set_operation(
        self, query: exp.SetOperation, parent: Scope | None, defined: dict[str, Source]
    ) -> tuple[str, dict[str, str] | None]:
        """Return the normal form of a UNION, INTERSECT or EXCEPT; walk long chains, do not nest."""
        chain = [query]
        while isinstance(chain[-1].this, exp.SetOperation) and not has_tail(chain[-1].this):
            chain.append(chain[-1].this)
        text, outputs = self._query(chain[-1].this, parent, defined)
        for operation in reversed(chain):
            other, _ = self._query(operation.args["expression"], parent, defined)
            kind = type(operation).__name__ + ("" if operation.args.get("distinct") else "All")
            text = f"{text}{kind}({other})"
        scope = Scope(parent, defined, aliases=dict(outputs or {}))
        if outputs is None:
            scope.sources[""] = Source("", None)
        skipped = frozenset({"this", "expression", "distinct", "with_"})
        return text + self._rest(query, scope, skipped), outputs

    def _source(self, node: exp.Expr, scope: Scope) -> str:
        """Return the normal form of one thing in a FROM clause, which it adds to the scope."""
        alias = node.args.get("alias")
        mark = f"t{self._num_sources}"
        self._num_sources += 1
        name = folded(alias.this) if alias is not None and alias.this is not None else ""
        if isinstance(node, exp.Table) and isinstance(node.this, exp.Identifier):
            text, source, own_name = self._table(node, mark, scope)
            name = name or own_name
        elif isinstance(node, exp.Subquery) and isinstance(node.this, exp.Table):
            return "(" + self._source(node.this, scope) + ")"
        elif isinstance(node, (exp.Subquery, exp.Query)):
            text, outputs = self._query(node, scope.parent, scope.defined)
            source = Source(mark, outputs)
        else:
            rest = self._rest(node, scope, frozenset({"alias", "joins"}))
            text, source = type(node).__name__ + rest, Source(mark, None)
            own = node.this
            if not name and isinstance(own, exp.Anonymous):
                name = str(own.this).lower()
        source.columns = given_names(alias) or source.columns
        scope.sources[name if name and name not in scope.sources else mark] = source
        joins = node.args.get("joins") or []
        joined = [(join, self._source(join.this, scope)) for join in joins]
        return ",".join([text, *(self._join(join, inner, scope) for join, inner in joined)])

    def _table(self, node: exp.Table, mark: str, scope: Scope) -> tuple[str, Source, str]:
        """Return the normal form of a table that is named, what it is, and its own name."""
        name = folded(node.this)
        database = folded(node.args["db"]) if node.args.get("db") is not None else ""
        made = scope.defined.get(name) if not database else None
        if made is not None:
            return made.mark, Source(mark, made.columns), name
        shown = f"{database}.{name}" if database not in ("", "main") else name
        columns = self._columns_by_table.get(name) if database in ("", "main") else None
        self.tables.setdefault(shown)
        if name in ("sqlite_master", "sqlite_schema"):
            return shown, Source(mark, None), name
        if columns is None:
            self.missing.setdefault(shown)
            return shown, Source(mark, None, shown, missing=True), name
        return shown, Source(mark, {c: c for c in columns}, shown), name

    def _join(self, join: exp.Join, text: str, scope: Scope) -> str:
        """Return the normal form of a join whose source has been read."""
        words = (join.args.get(key) or "" for key in ("method", "side", "kind"))
        kind = "".join(str(word).upper() for word in words if word not in ("INNER", "CROSS"))
        scope.merged.update(merged_names(join, scope))
        using = [self._column(name, "", name, scope) for name in map(folded, join_names(join))]
        rest = self._rest(join, scope, frozenset({"this", "method", "side", "kind", "using"}))
        return f"{kind}join {text}" + (f"using({','.join(using)})" if using else "") + rest

    def _text(self, node: Any, scope: Scope, as_value: bool = False) -> str:
        """Return the normal form of any node inside a SELECT."""
        if not isinstance(node, exp.Expr):
            return str(node)
        if is_misgrouped(node):
            raise UnreadableError("sqlglot groups this differently than SQLite does")
        if isinstance(node, exp.Column):
            return self._column_node(node, scope, as_value)
        if isinstance(node, exp.Literal):
            self._note_literal(literal_value(node))
            return repr(node.this) if node.args.get("is_string") else str(node.this).lower()
        if isinstance(node, exp.Identifier):
            return folded(node)
        if isinstance(node, (exp.Paren, exp.Alias)):
            return self._text(node.this, scope, as_value)
        if isinstance(node, (exp.Query, exp.Subquery)):
            return f"({self._query(node, scope, scope.defined)[0]})"
        if isinstance(node, exp.Table):
            return folded(node.this) if isinstance(node.this, exp.Identifier) else text_of(node)
        if isinstance(node, exp.Anonymous):
            inner = ",".join(self._text(e, scope, i > 0) for i, e in enumerate(node.expressions))
            return f"{str(node.this).lower()}({inner})"
        return type(node).__name__ + self._rest(node, scope, frozenset(), as_value)

    def _rest(
        self, node: exp.Expr, scope: Scope, skipped: frozenset[str], as_value: bool = False
    ) -> str:
        """Return the normal form of a node's arguments, empty ones and skipped ones left out."""
        of_case = isinstance(node, (exp.Case, exp.DPipe, exp.Coalesce))
        parts = []
        arguments = list(node.args.items())
        if isinstance(node, exp.SetOperation):
            arguments.sort(key=lambda argument: TAIL_ARGS.get(argument[0], 0))
        for key, value in arguments:
            if value is None or value is False or value == [] or key in skipped:
                continue
            here = as_value or of_case or key in VALUE_ARGS
            if isinstance(value, list):
                here = here or isinstance(node, exp.In)
                inner = ",".join([self._text(item, scope, here) for item in value])
                parts.append(f"{key}[{inner}]")
            elif value is True:
                parts.append(key)
            else:
                parts.append(f"{key}={self._text(value, scope, here)}")
        return f"({' '.join(parts)})" if parts else ""

    def _column_node(self, node: exp.Column, scope: Scope, as_value: bool) -> str:
        """Return the normal form of a column or of a qualified star."""
        qualifier = folded(node.args["table"]) if node.args.get("table") is not None else ""
        if is_star(node):
            source = found_source(qualifier, scope)
            if source is None:
                self.missing.setdefault(f"{qualifier}.*")
                self.columns.setdefault(f"{qualifier}.*")
            return f"{source.mark if source else qualifier}.*"
        name = folded(node.this)
        if as_value and not qualifier and is_quoted(node.this) and not known(name, scope):
            self._note_literal(literal_value(node, text=node.this.name))
            return repr(node.this.name)
        written = f"{qualifier}.{name}" if qualifier else name
        if node.args.get("db") is not None and folded(node.args["db"]) != "main":
            written = f"{folded(node.args['db'])}.{written}"
            return self._missing(written, written)
        return self._column(name, qualifier, written, scope)

    def _column(self, name: str, qualifier: str, written: str, scope: Scope) -> str:
        """Return the normal form of a column, which it counts as named, and as missing if it is."""
        if qualifier:
            source = found_source(qualifier, scope)
            if source is None:
                return self._missing(written, written)
            if source.missing or (source.columns is not None and not source.has(name)):
                return self._missing(f"{source.table or qualifier}.{name}", f"{source.mark}.{name}")
            return self._existing(name, source)
        for around in scope.outward():
            found = [source for source in around.sources.values() if source.has(name)]
            if found:
                text = self._existing(name, found[0])
                return text if len(found) == 1 or name in around.merged else f"ambiguous {name}"
            if name in around.aliases:
                return around.aliases[name]
        unsure = [s for around in scope.outward() for s in around.sources.values()]
        if any(s.columns is None and not s.missing for s in unsure):
            return name
        return self._missing(written, written if name.isidentifier() else repr(written))

    def _existing(self, name: str, source: Source) -> str:
        """Count a column that exists, if it is one of the database."""
        if source.table:
            self.columns.setdefault(f"{source.table}.{name}")
        return f"{source.mark}.{(source.columns or {}).get(name, name)}"

    def _note_literal(self, value: str | int | float | None) -> None:
        """Count a literal; None is none."""
        if value is not None:
            self.literals.setdefault(value)

    def _missing(self, shown: str, text: str) -> str:
        """Count a column that does not exist."""
        self.columns.setdefault(shown)
        self.missing.setdefault(shown)
        return text


def is_misgrouped(node: exp.Expr) -> bool:
    """Return whether an operand without parentheses is one that SQLite would not read as one."""
    if isinstance(node, ORDERINGS):
        return binds_too_tightly(node.this) or binds_too_tightly(node.expression)
    return isinstance(node, EQUALITIES) and binds_too_tightly(node.expression)


def binds_too_tightly(operand: Any) -> bool:
    """Return whether an operand is LIKE, IN, BETWEEN or IS, or the negation of one."""
    return isinstance(operand.this if isinstance(operand, exp.Not) else operand, TIGHT)


def folded(node: Any) -> str:
    """Return a name as SQLite compares it: without case and quotes."""
    return str(node.name if isinstance(node, exp.Expr) else node).lower()


def is_quoted(node: Any) -> bool:
    """Return whether a name stands in quotes."""
    return isinstance(node, exp.Identifier) and bool(node.args.get("quoted"))


def is_star(node: exp.Expr) -> bool:
    """Return whether a node is `*` or `t.*`."""
    return isinstance(node, exp.Star) or (
        isinstance(node, exp.Column) and isinstance(node.this, exp.Star)
    )


def has_tail(query: exp.Expr) -> bool:
    """Return whether a set operation has clauses of its own: WITH, ORDER BY, LIMIT."""
    return any(query.args.get(key) for key in ("with_", "order", "limit", "offset"))


def join_names(join: exp.Join) -> list[Any]:
    """Return the names in a join's USING."""
    return list(join.args.get("using") or [])


def merged_names(join: exp.Join, scope: Scope) -> set[str]:
    """Return the columns that a join merges: those in its USING, under NATURAL all shared ones."""
    if join.args.get("method") == "NATURAL":
        return {name for source in scope.sources.values() for name in source.columns or {}}
    return {folded(name) for name in join_names(join)}


def given_names(alias: Any) -> dict[str, str] | None:
    """Return the column names that an alias gives, as in `t(a, b)`; none if it gives none."""
    names = alias.args.get("columns") if isinstance(alias, exp.TableAlias) else None
    return {folded(name): f"c{place}" for place, name in enumerate(names)} if names else None


def starred(node: exp.Expr, scope: Scope) -> dict[str, str] | None:
    """Return the columns that a star stands for, by name; none if they cannot be known."""
    sources = list(scope.sources.values())
    if isinstance(node, exp.Column):
        source = found_source(folded(node.args["table"]), scope)
        sources = [source] if source else []
    columns: dict[str, str] | None = {}
    for source in sources:
        columns = merged(columns, {name: name for name in source.columns or {}})
        if source.columns is None:
            columns = None
    return columns


def merged(a: dict[str, str] | None, b: dict[str, str] | None) -> dict[str, str] | None:
    """Return the output columns of two parts; the first of two equal names counts."""
    return None if a is None or b is None else {**b, **a}
