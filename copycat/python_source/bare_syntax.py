"""Functions of other people, cut down to what they compute."""

from __future__ import annotations

import ast

_NEVER = ("torch.jit.is_scripting", "torch.jit.is_tracing")
"""False wherever Python runs the code; torchvision asks them everywhere."""

_USELESS = ("_log_api_usage_once", "torch._C._log_api_usage_once")


def bare(function: ast.FunctionDef) -> ast.FunctionDef:
    """`function` without annotations, decorators, docstring, and branches for TorchScript."""
    tree = _Bare().visit(function)
    assert isinstance(tree, ast.FunctionDef)
    return ast.fix_missing_locations(tree)


class _Bare(ast.NodeTransformer):
    def __init__(self) -> None:
        self.read: set[str] = set()

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        names = [n for n in ast.walk(node) if isinstance(n, ast.Name)]
        self.read |= {n.id for n in names if isinstance(n.ctx, ast.Load)}
        node.decorator_list, node.returns = [], None
        if ast.get_docstring(node) is not None and len(node.body) > 1:
            del node.body[0]
        self.generic_visit(node)
        node.body = node.body or [ast.Pass()]
        return node

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST | None:
        if node.value is None:
            return None
        return ast.copy_location(ast.Assign([node.target], self.visit(node.value)), node)

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        if isinstance(node.value, ast.Call) and ast.unparse(node.value.func) in _USELESS:
            return None
        return self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        if ast.unparse(node.func) in _NEVER:
            return ast.Constant(False)
        return self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.op, ast.Not) and _is_constant(node.operand):
            return ast.Constant(not _truth(node.operand))
        return node

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.AST:
        """Only constants at the front can go: what stands before others is evaluated."""
        self.generic_visit(node)
        decides = isinstance(node.op, ast.Or)
        values = list(node.values)
        while len(values) > 1 and _is_constant(values[0]):
            if _truth(values[0]) is decides:
                return values[0]
            del values[0]
        return values[0] if len(values) == 1 else ast.BoolOp(node.op, values)

    def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt] | None:
        self.generic_visit(node)
        if _is_constant(node.test):
            return (node.body if _truth(node.test) else node.orelse) or None
        node.body = node.body or [ast.Pass()]
        inner = node.body[0]
        alone = len(node.body) == 1 and not node.orelse
        if alone and isinstance(inner, ast.If) and not inner.orelse:
            return ast.If(ast.BoolOp(ast.And(), [node.test, inner.test]), inner.body, [])
        return node

    def visit_For(self, node: ast.For) -> ast.AST:
        """`for key, value in self.items()` without a key that nobody reads."""
        self.generic_visit(node)
        if ast.unparse(node.iter) == "self.items()" and isinstance(node.target, ast.Tuple):
            key, value = node.target.elts
            if isinstance(key, ast.Name) and key.id not in self.read:
                call = ast.parse("self.values()", mode="eval").body
                return ast.For(value, call, node.body, node.orelse, lineno=node.lineno)
        return node


def _is_constant(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, bool)


def _truth(node: ast.expr) -> bool:
    assert isinstance(node, ast.Constant)
    return bool(node.value)
